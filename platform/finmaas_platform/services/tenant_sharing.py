"""What holds for a tenant at the gateways: its weight among those that wait, and how old a snapshot may judge it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.domain.principals import Caller, Role
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.snapshots import bump_snapshot


def set_weight(session: Session, caller: Caller, now: datetime, row: TenantRow, weight: float) -> None:
    """For platform-admins: it is taken from the others."""
    caller.require()
    _change(session, caller, now, row, weight, row.max_staleness_s)


def set_max_staleness(session: Session, caller: Caller, now: datetime, row: TenantRow, seconds: int | None) -> None:
    """None: its requests are served however long a gateway has been cut off. For the tenant's own admins too."""
    caller.require(Role.TENANT_ADMIN)
    _change(session, caller, now, row, row.weight, seconds)


def _change(
    session: Session, caller: Caller, now: datetime, row: TenantRow, weight: float, max_staleness_s: int | None
) -> None:
    before = {"weight": row.weight, "max_staleness_s": row.max_staleness_s}
    after = {"weight": weight, "max_staleness_s": max_staleness_s}
    if before == after:
        return
    row.weight, row.max_staleness_s = weight, max_staleness_s
    bump_snapshot(session)
    session.flush()
    record_audit(session, caller, now, "tenant.sharing", row.id, before, after, tenant_id=row.id)
