"""Moves of model versions and aliases. Each is one transaction with its event and its audit event.

A version is locked while it moves, so of two approvers at once one is told that the other was first, and no version is
retired between somebody's look at it and their alias or endpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from finmaas_core.errors import Conflict, NotAllowed, VersionMismatch
from finmaas_core.ids import new_id
from finmaas_platform.db.approvals import ModelAliasRow, ModelEventRow
from finmaas_platform.db.base import insert_unique
from finmaas_platform.db.endpoints import EndpointRow
from finmaas_platform.db.models import ModelRow, ModelVersionRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.approvals import Outcome, decide_rules, describe_failures, find_four_eyes_fault
from finmaas_platform.domain.endpoints import EndpointState
from finmaas_platform.domain.model_versions import (
    MAKERS,
    MOVES,
    Move,
    VersionState,
    check_alias,
    check_may_bear,
    check_move,
)
from finmaas_platform.domain.principals import Caller, Role
from finmaas_platform.services.approval_rules import find_authors, gather_facts, get_rules, to_person
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.locks import ask_for_lock
from finmaas_platform.services.models import find_alias, lock_version, select_aliases
from finmaas_platform.services.signatures import store_signature
from finmaas_registry.signing import Signed, TrustRoot


@dataclass(frozen=True)
class Verdict:
    """What stands in the way of a version: the rules' outcomes, and what is wrong with the caller as its approver."""

    outcomes: Sequence[Outcome]
    approver_fault: str | None


@dataclass(frozen=True)
class Means:
    """What moves need beside the database: whose signatures count, and for an approval the new one and its locks."""

    trust: TrustRoot
    signed: Signed | None = None
    lock_days: int = 0


def judge_version(session: Session, caller: Caller, version: ModelVersionRow, means: Means) -> Verdict:
    """What the rules say of a version now, and whether the caller could be its approver; nothing is changed."""
    person = to_person(session, caller)
    faults = (find_four_eyes_fault(author, person) for author in find_authors(session, version))
    fault = next((fault for fault in faults if fault), None)
    rules = get_rules(session, caller, version.model.project)
    return Verdict(decide_rules(rules, gather_facts(session, caller, version, person, means.trust)), fault)


def validate_version(
    session: Session, caller: Caller, now: datetime, version: ModelVersionRow, note: str, means: Means
) -> None:
    """Candidate to validated; Conflict tells which rules do not hold."""
    target = _begin(session, caller, version, Move.VALIDATE)
    rules = get_rules(session, caller, version.model.project)
    outcomes = decide_rules(rules, gather_facts(session, caller, version, None, means.trust))
    _check_rules(version, outcomes)
    _move(session, caller, now, version, Move.VALIDATE, target, note, outcomes)


def approve_version(
    session: Session, caller: Caller, now: datetime, version: ModelVersionRow, note: str, means: Means
) -> None:
    """Validated to approved. NotAllowed for one who is not a second pair of eyes, Conflict where a rule fails."""
    target = _begin(session, caller, version, Move.APPROVE)
    verdict = judge_version(session, caller, version, means)
    if verdict.approver_fault:
        raise NotAllowed(f"{caller.name} cannot approve {version.ref}: {verdict.approver_fault}")
    _check_rules(version, verdict.outcomes)
    if means.signed is None:
        raise Conflict(f"{version.ref} was moved at the same time; look at it and repeat your change")
    _move(session, caller, now, version, Move.APPROVE, target, note, verdict.outcomes)
    store_signature(session, caller, now, version, means.signed)
    ask_for_lock(session, now, "model", version, means.lock_days)


def reject_version(
    session: Session, caller: Caller, now: datetime, version: ModelVersionRow, note: str, means: Means
) -> None:
    """Validated back to candidate."""
    target = _begin(session, caller, version, Move.REJECT)
    _move(session, caller, now, version, Move.REJECT, target, note, ())


def retire_version(
    session: Session, caller: Caller, now: datetime, version: ModelVersionRow, note: str, means: Means
) -> None:
    """Ends a version's life; Conflict while an alias points at it or an endpoint serves it."""
    target = _begin(session, caller, version, Move.RETIRE)
    if used := _find_users(session, caller, version):
        raise Conflict(f"{version.ref} is in use by {', '.join(used)}; move those to another version first", used=used)
    _move(session, caller, now, version, Move.RETIRE, target, note, ())


def set_alias(
    session: Session,
    caller: Caller,
    now: datetime,
    model: ModelRow,
    name: str,
    version: ModelVersionRow,
    note: str = "",
    expected: int | None = None,
) -> ModelAliasRow:
    """Points an alias at a version of the model, making it if it is new. `expected` is the alias's present version.

    Conflict for a retired version, or one that is not approved where the project protects the alias.
    """
    caller.require(*MAKERS, Role.APPROVER)
    check_alias(name)
    lock_version(session, version)
    protected = name in get_rules(session, caller, model.project).protected_aliases
    check_may_bear(version.ref, VersionState(version.state), name, protected)
    row = _find_locked(session, caller, model, name)
    before = None if row is None else row.points_at
    _check_expected(row, name, expected)
    if row is None:
        row = ModelAliasRow(id=new_id("model_alias"), tenant_id=model.tenant_id, model_id=model.id, name=name)
        row.points_at, row.version_id, row.updated_at, row.updated_by = version, version.id, now, caller.name
        insert_unique(session, row, f"{model.name} was just given the alias {name}; look at it and repeat your change")
    elif row.version_id == version.id:
        return row
    row.points_at, row.version_id, row.updated_at, row.updated_by = version, version.id, now, caller.name
    session.flush()
    _note_alias(session, caller, now, model, row, before, version, note)
    return row


def remove_alias(
    session: Session, caller: Caller, now: datetime, model: ModelRow, name: str, expected: int | None = None
) -> None:
    """Takes an alias away; what was deployed by it stays. A protected one is the business of approvers."""
    protected = name in get_rules(session, caller, model.project).protected_aliases
    caller.require(*((Role.TENANT_ADMIN, Role.APPROVER) if protected else (*MAKERS, Role.APPROVER)))
    row = find_alias(session, caller, model, name)
    _check_expected(row, name, expected)
    session.delete(row)
    session.flush()
    _note_alias(session, caller, now, model, row, row.points_at, None, "")


def select_events(
    caller: Caller, model: ModelRow, version: ModelVersionRow | None = None, alias: str | None = None
) -> Select[ModelEventRow]:
    """The history of a model, of one version or one alias if given."""
    query = scoped(select(ModelEventRow), caller).where(ModelEventRow.model_id == model.id)
    query = query if version is None else query.where(ModelEventRow.version_id == version.id)
    return query if alias is None else query.where(ModelEventRow.alias == alias)


def _begin(session: Session, caller: Caller, version: ModelVersionRow, move: Move) -> VersionState:
    caller.require(*MOVES[move].roles)
    lock_version(session, version)
    return check_move(version.ref, VersionState(version.state), move)


def _check_rules(version: ModelVersionRow, outcomes: Sequence[Outcome]) -> None:
    if failures := describe_failures(outcomes):
        raise Conflict(
            f"{version.ref} does not hold to the rules of {version.model.project.ref}: {failures}",
            rules=[outcome.as_json() for outcome in outcomes],
        )


def _move(
    session: Session,
    caller: Caller,
    now: datetime,
    version: ModelVersionRow,
    move: Move,
    target: VersionState,
    note: str,
    outcomes: Sequence[Outcome],
) -> None:
    before = version.state
    version.state = target.value
    version.revision += 1
    told = [outcome.as_json() for outcome in outcomes]
    _add_event(session, caller, now, version.model, version.id, None, move.value, before, target.value, note, told)
    after = {"ref": version.ref, "state": target.value, "note": note, "digest": version.digest, "rules": told}
    if version.locked_until is not None and version.locked_until > now:
        after["locked_until"] = version.locked_until.isoformat()
    action = f"model_version.{move.value}"
    record_audit(session, caller, now, action, version.id, {"state": before}, after, tenant_id=version.tenant_id)


def _note_alias(
    session: Session,
    caller: Caller,
    now: datetime,
    model: ModelRow,
    alias: ModelAliasRow,
    before: ModelVersionRow | None,
    after: ModelVersionRow | None,
    note: str,
) -> None:
    left, right = (None if one is None else one.ref for one in (before, after))
    subject = after or before
    action = "move" if after is not None else "remove"
    version_id = None if subject is None else subject.id
    _add_event(session, caller, now, model, version_id, alias.name, f"alias.{action}", left, right, note, [])
    record_audit(
        session,
        caller,
        now,
        f"model_alias.{action}",
        alias.id,
        None if left is None else {"alias": alias.name, "version": left},
        None if right is None else {"alias": alias.name, "version": right, "note": note},
        tenant_id=model.tenant_id,
    )


def _add_event(
    session: Session,
    caller: Caller,
    now: datetime,
    model: ModelRow,
    version_id: str | None,
    alias: str | None,
    action: str,
    before: str | None,
    after: str | None,
    note: str,
    outcomes: list[dict[str, object]],
) -> None:
    session.add(
        ModelEventRow(
            id=new_id("model_event"),
            tenant_id=model.tenant_id,
            model_id=model.id,
            version_id=version_id,
            alias=alias,
            action=action,
            before=before,
            after=after,
            note=note,
            outcomes=outcomes,
            at=now,
            by_id=caller.id,
            by_name=caller.name,
        )
    )


def _find_locked(session: Session, caller: Caller, model: ModelRow, name: str) -> ModelAliasRow | None:
    query = select_aliases(caller, model).where(ModelAliasRow.name == name)
    return session.scalar(query.with_for_update(of=ModelAliasRow).execution_options(populate_existing=True))


def _check_expected(row: ModelAliasRow | None, name: str, expected: int | None) -> None:
    current = 0 if row is None else row.version
    if expected is not None and expected != current:
        raise VersionMismatch(
            f"If-Match names version {expected} of the alias {name}, it is now at {current}; read it again",
            current_version=current,
        )


def _find_users(session: Session, caller: Caller, version: ModelVersionRow) -> list[str]:
    """Aliases and live endpoints of a version, as a user calls them."""
    aliases = scoped(select(ModelAliasRow), caller).where(ModelAliasRow.version_id == version.id)
    endpoints = scoped(select(EndpointRow), caller).where(
        EndpointRow.model_version_id == version.id, EndpointRow.state != EndpointState.STOPPED
    )
    return [
        *(f"the alias {row.name}" for row in session.scalars(aliases)),
        *(f"the endpoint {row.full_name}" for row in session.scalars(endpoints)),
    ]
