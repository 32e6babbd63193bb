"""Tenants: making, finding and freezing them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from finmaas_core.errors import NotFound
from finmaas_core.ids import new_id
from finmaas_core.prices import check_currency
from finmaas_core.windows import check_fiscal_day, get_zone
from finmaas_platform.db.base import insert_unique
from finmaas_platform.db.scope import scoped
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.domain.names import check_name
from finmaas_platform.domain.principals import Caller
from finmaas_platform.domain.tenants import TenantState, check_transition
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.snapshots import bump_snapshot


def get_tenant(session: Session, caller: Caller, name: str) -> TenantRow:
    """The tenant of that name (or id); NotFound when there is none in the caller's sight."""
    query = scoped(select(TenantRow), caller).where((TenantRow.name == name) | (TenantRow.id == name))
    found = session.scalar(query)
    if found is None:
        raise NotFound(f"there is no tenant {name}; `finmaas tenant list` shows yours")
    return found


def list_own_tenants(session: Session, caller: Caller) -> list[TenantRow]:
    """The tenants in the caller's sight, by name: their own, or all for platform-wide principals."""
    return list(session.scalars(scoped(select(TenantRow), caller).order_by(TenantRow.name)))


def create_tenant(session: Session, caller: Caller, now: datetime, name: str, display_name: str) -> TenantRow:
    """A new active tenant. AlreadyExists when the name is taken; platform-admins only."""
    caller.require()
    row = TenantRow(
        id=new_id("tenant"),
        name=check_name(name, "tenant name"),
        display_name=display_name or name,
        state=TenantState.ACTIVE,
        created_at=now,
    )
    insert_unique(session, row, f"the tenant {name} exists already; choose another name")
    after = {"name": row.name, "display_name": row.display_name}
    record_audit(session, caller, now, "tenant.create", row.id, after=after, tenant_id=row.id)
    return row


def update_tenant(
    session: Session,
    caller: Caller,
    now: datetime,
    row: TenantRow,
    *,
    state: TenantState | None = None,
    display_name: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Changes state, display name, or how its money and time are reckoned (`settings`, by column).

    Conflict for a transition that does not exist; platform-admins only.
    """
    caller.require()
    before = _describe(row)
    if state is not None:
        check_transition(row.name, TenantState(row.state), state)
        row.state = state.value
    row.display_name = display_name if display_name is not None else row.display_name
    for name, value in (settings or {}).items():
        setattr(row, name, _CHECKS[name](value))
    after = _describe(row)
    if after == before:
        return
    bump_snapshot(session)  # a frozen tenant's keys leave the gateways, a new calendar comes to them
    session.flush()
    record_audit(session, caller, now, "tenant.update", row.id, before, after, tenant_id=row.id)


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "time_zone": lambda name: get_zone(name).key,
    "fiscal_day": check_fiscal_day,
    "currency": check_currency,
    "cost_centre": str,
}


def _describe(row: TenantRow) -> dict[str, Any]:
    return {"state": row.state, "display_name": row.display_name, **{name: getattr(row, name) for name in _CHECKS}}
