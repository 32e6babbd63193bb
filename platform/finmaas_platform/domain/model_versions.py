"""The life cycle of a model version: its states, the table of moves, and who may make them. Pure.

candidate ─validate─► validated ─approve─► approved
    ▲                    │
    └──────reject────────┘          every state ─retire─► retired (for good)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from finmaas_core.errors import Conflict, InvalidInput
from finmaas_platform.domain.principals import Role


class VersionState(StrEnum):
    """Where a model version stands."""

    CANDIDATE = "candidate"  # registered; may be evaluated, and served to endpoints that are not for production
    VALIDATED = "validated"  # holds to the project's rules; waits for a second pair of eyes
    APPROVED = "approved"  # approved by somebody else than its author, and signed
    RETIRED = "retired"  # not to be used any more


class Move(StrEnum):
    """What can be done to a version's state."""

    VALIDATE = "validate"
    APPROVE = "approve"
    REJECT = "reject"
    RETIRE = "retire"


@dataclass(frozen=True)
class Step:
    """From which states a move leads where, and whose it is."""

    sources: frozenset[VersionState]
    target: VersionState
    roles: tuple[Role, ...]


_S = VersionState
MAKERS = (Role.TENANT_ADMIN, Role.ML_ENGINEER)
APPROVERS = (Role.TENANT_ADMIN, Role.APPROVER)
MOVES: Mapping[Move, Step] = {
    Move.VALIDATE: Step(frozenset({_S.CANDIDATE}), _S.VALIDATED, MAKERS),
    Move.APPROVE: Step(frozenset({_S.VALIDATED}), _S.APPROVED, APPROVERS),
    Move.REJECT: Step(frozenset({_S.VALIDATED}), _S.CANDIDATE, APPROVERS),
    Move.RETIRE: Step(frozenset({_S.CANDIDATE, _S.VALIDATED, _S.APPROVED}), _S.RETIRED, (*MAKERS, Role.APPROVER)),
}
_WHAT_NEXT: Mapping[VersionState, str] = {
    _S.CANDIDATE: "validate it first: finmaas model promote {ref}",
    _S.VALIDATED: "it waits for an approver: finmaas model approve {ref}",
    _S.APPROVED: "it is approved already",
    _S.RETIRED: "retired versions stay so; register a new one",
}
_ALIAS = re.compile(r"^[a-z]([a-z0-9._-]{0,62}[a-z0-9])?$")
RESERVED_ALIASES = frozenset({"latest", "newest"})


def check_move(ref: str, state: VersionState, move: Move) -> VersionState:
    """The state that a move leads to; Conflict where the present one forbids it."""
    step = MOVES[move]
    if state in step.sources:
        return step.target
    raise Conflict(
        f"{ref} is {state}, so it cannot be moved by {move}; {_WHAT_NEXT[state].format(ref=ref)}", state=state
    )


def check_alias(name: str) -> str:
    """Returns the name of an alias, or raises InvalidInput: a number would be taken for a version."""
    if not _ALIAS.fullmatch(name) or name in RESERVED_ALIASES:
        raise InvalidInput(
            f"{name[:80]!r} cannot be an alias; use 1 to 64 of a-z, 0-9, dot, dash and underscore, beginning with a "
            f"letter, and none of {', '.join(sorted(RESERVED_ALIASES))}"
        )
    return name


def check_may_bear(ref: str, state: VersionState, alias: str, protected: bool) -> None:
    """Raises Conflict where a version may not bear an alias: retired ones bear none, protected ones go to approved."""
    if state is VersionState.RETIRED:
        raise Conflict(f"{ref} is retired, so {alias} cannot point at it; name another version", state=state)
    if protected and state is not VersionState.APPROVED:
        raise Conflict(
            f"{alias} is a protected alias and {ref} is {state}; only approved versions may bear it: "
            f"{_WHAT_NEXT[state].format(ref=ref)}",
            state=state,
        )


def check_servable(ref: str, state: VersionState, production: bool) -> None:
    """Raises Conflict where an endpoint may not serve a version."""
    if state is VersionState.RETIRED:
        raise Conflict(f"{ref} is retired and is not served any more; deploy another version", state=state)
    if production and state is not VersionState.APPROVED:
        raise Conflict(
            f"{ref} is {state}, and a production endpoint serves approved versions only; "
            f"{_WHAT_NEXT[state].format(ref=ref)}",
            state=state,
        )
