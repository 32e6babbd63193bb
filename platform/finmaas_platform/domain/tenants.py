"""Tenants: business units, owners of quota and cost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from finmaas_core.errors import Conflict
from finmaas_core.ids import TenantId


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


@dataclass(frozen=True)
class Tenant:
    """One business unit."""

    id: TenantId
    name: str
    display_name: str
    state: TenantState
    created_at: datetime
    version: int


def check_transition(name: str, old: TenantState, new: TenantState) -> None:
    """Raises Conflict unless a tenant may go from one state to the other; staying is allowed."""
    if new is old or new in TRANSITIONS[old]:
        return
    allowed = " or ".join(sorted(TRANSITIONS[old])) or "nothing: a closed tenant stays closed"
    raise Conflict(f"tenant {name} is {old} and cannot become {new}; from {old} it can become {allowed}")
