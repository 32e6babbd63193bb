"""Tenants: business units, owners of quota and cost."""

from __future__ import annotations

from enum import StrEnum

from finmaas_core.errors import Conflict


class TenantState(StrEnum):
    """A frozen tenant reads but changes nothing, and its API keys do not work; a closed one cannot log in either."""

    ACTIVE = "active"
    FROZEN = "frozen"
    CLOSED = "closed"


TRANSITIONS: dict[TenantState, frozenset[TenantState]] = {
    TenantState.ACTIVE: frozenset({TenantState.FROZEN}),
    TenantState.FROZEN: frozenset({TenantState.ACTIVE, TenantState.CLOSED}),
    TenantState.CLOSED: frozenset(),
}


def check_transition(name: str, old: TenantState, new: TenantState) -> None:
    """Raises Conflict unless a tenant may go from one state to the other; staying is allowed."""
    if new is old or new in TRANSITIONS[old]:
        return
    allowed = " or ".join(sorted(TRANSITIONS[old])) or "nothing: a closed tenant stays closed"
    raise Conflict(f"tenant {name} is {old} and cannot become {new}; from {old} it can become {allowed}")
