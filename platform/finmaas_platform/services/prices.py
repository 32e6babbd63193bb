"""The price book: what tokens of a model cost from a day on. Set by platform-admins; what was charged stays."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from finmaas_core.errors import InvalidInput
from finmaas_core.ids import new_id
from finmaas_core.prices import EVERY_MODEL, Price, check_currency
from finmaas_platform.db.allowances import PriceRow
from finmaas_platform.db.endpoints import EndpointRow
from finmaas_platform.db.grants import GrantRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.projects import get_project
from finmaas_platform.services.snapshots import bump_snapshot, describe_price


def set_price(session: Session, caller: Caller, now: datetime, model: str, currency: str, price: Price) -> PriceRow:
    """Sets what a model (full name, or `*`) costs from a day on; the same day again replaces it.

    InvalidInput for a day that is over everywhere: what was charged then stays.
    """
    caller.require()
    check_currency(currency)
    _check_day(price.valid_from, now)
    tenant_id = None if model == EVERY_MODEL else get_project(session, caller, model.rpartition("/")[0]).tenant_id
    row = session.scalar(
        select(PriceRow)  # unscoped: platform-admins only
        .where(PriceRow.model == model, PriceRow.currency == currency, PriceRow.valid_from == price.valid_from)
        .with_for_update()
    )
    before = None if row is None else describe_price(row)
    if row is None:
        row = PriceRow(id=new_id("price"), tenant_id=tenant_id, model=model, currency=currency)
        row.valid_from, row.created_at, row.created_by = price.valid_from, now, caller.id
        session.add(row)
    row.input_nano, row.cached_nano = price.input_nano, price.cached_nano
    row.output_nano, row.reasoning_nano = price.output_nano, price.reasoning_nano
    session.flush()
    bump_snapshot(session)
    record_audit(session, caller, now, "price.set", row.id, before, describe_price(row), tenant_id=tenant_id)
    return row


def select_prices(caller: Caller, model: str | None = None) -> Select[PriceRow]:
    """Prices of the models that the caller's tenant owns or was granted, and of `*`."""
    query = select(PriceRow)  # unscoped: narrowed below
    if not caller.is_platform_wide:
        granted = (
            select(EndpointRow.id)  # unscoped: narrowed to the tenant's grants
            .join(GrantRow, GrantRow.endpoint_id == EndpointRow.id)
            .join(ProjectRow, GrantRow.project_id == ProjectRow.id)
            .where(ProjectRow.tenant_id == caller.tenant_id, GrantRow.revoked_at.is_(None))
        )
        reached = scoped_names(granted)
        query = query.where(
            or_(PriceRow.model == EVERY_MODEL, PriceRow.tenant_id == caller.tenant_id, PriceRow.model.in_(reached))
        )
    return query if model is None else query.where(PriceRow.model == model)


def scoped_names(endpoint_ids: Select[str]) -> Select[str]:
    """Full names of endpoints."""
    return (
        select(TenantRow.name + "/" + ProjectRow.name + "/" + EndpointRow.name)  # unscoped: as above
        .select_from(EndpointRow)
        .join(ProjectRow, EndpointRow.project_id == ProjectRow.id)
        .join(TenantRow, ProjectRow.tenant_id == TenantRow.id)
        .where(EndpointRow.id.in_(endpoint_ids))
    )


def _check_day(day: str, now: datetime) -> None:
    try:
        first = datetime.fromisoformat(day).date()
    except ValueError:
        raise InvalidInput(f"{day[:40]!r} is not a day; write it as 2026-01-31") from None
    if first.isoformat() != day:
        raise InvalidInput(f"{day[:40]!r} is not a day; write it as 2026-01-31")
    if first < (now - timedelta(days=1)).date():
        raise InvalidInput(f"{day} is over, and what was charged then stays; give today or a later day")
