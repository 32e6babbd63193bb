"""Allowances: setting, finding and removing them, and what of their present window is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select, update
from sqlalchemy.orm import Session

from finmaas_core.errors import InvalidInput, NotFound
from finmaas_core.ids import new_id
from finmaas_core.prices import check_currency
from finmaas_core.windows import WindowKind, find_window
from finmaas_platform.db.allowances import AllowanceRow
from finmaas_platform.db.api_keys import ApiKeyRow
from finmaas_platform.db.ledger import LedgerSliceRow, LedgerWindowRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.domain.allowances import Scope, Unit, check_kind, read_limit
from finmaas_platform.domain.principals import Caller, Role
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.principals import get_principal
from finmaas_platform.services.projects import get_project
from finmaas_platform.services.snapshots import bump_snapshot
from finmaas_platform.services.tenants import get_tenant


@dataclass(frozen=True)
class AllowanceSpec:
    """What is to be allowed: `subject` is a tenant, tenant/project, the id of a key or a principal, or a model's full
    name, by scope."""

    scope: Scope
    subject: str
    unit: Unit
    window: WindowKind
    limit: str
    currency: str | None = None
    model: str = ""


@dataclass(frozen=True)
class Spent:
    """The present window: `settled` is spent for good, `held` lies with gateways, `reserved` of it by running calls."""

    starts_at: int | None
    ends_at: int | None
    settled: int
    held: int
    reserved: int


def set_allowance(session: Session, caller: Caller, now: datetime, spec: AllowanceSpec) -> AllowanceRow:
    """Sets what may be spent; one that is there already gets the new limit and keeps what was spent of it.

    A tenant's own allowances are set by platform-admins, all others by the tenant's admins too.
    """
    check_kind(spec.unit, spec.window)
    limit = read_limit(spec.unit, spec.limit)
    tenant, scope_id, label = _find_subject(session, caller, spec)
    currency = check_currency(spec.currency or tenant.currency) if spec.unit is Unit.MONEY else ""
    model = spec.model if spec.scope is not Scope.MODEL else spec.subject
    _check_model(model)
    same = scoped(select(AllowanceRow), caller).where(
        AllowanceRow.scope == spec.scope,
        AllowanceRow.scope_id == scope_id,
        AllowanceRow.model == model,
        AllowanceRow.unit == spec.unit,
        AllowanceRow.window_kind == spec.window,
    )
    row = session.scalar(same.with_for_update())
    if row is None:
        row = AllowanceRow(
            id=new_id("allowance"), tenant_id=tenant.id, scope=spec.scope.value, scope_id=scope_id, model=model,
            label=label, unit=spec.unit.value, window_kind=spec.window.value, amount=limit, currency=currency,
            created_at=now, created_by=caller.id,
        )  # fmt: skip
        session.add(row)
        session.flush()
        before = None
    else:
        before = describe_allowance(row)
        if row.currency != currency:
            raise InvalidInput(f"{row.id} counts {row.currency}; delete it before setting one in {currency}")
        row.amount = limit
    if before != describe_allowance(row):
        session.flush()
        recall_all(session, row)
        bump_snapshot(session)
        after = describe_allowance(row)
        record_audit(session, caller, now, "allowance.set", row.id, before, after, tenant_id=row.tenant_id)
    return row


def recall_all(session: Session, row: AllowanceRow) -> None:
    """Calls back what gateways hold idle of an allowance: its limit has changed."""
    session.execute(
        update(LedgerWindowRow)
        .where(LedgerWindowRow.allowance_id == row.id)
        .values(round=LedgerWindowRow.round + 1)
        .execution_options(synchronize_session=False)
    )


def select_allowances(session: Session, caller: Caller, project: str | None = None) -> Select[AllowanceRow]:
    """The allowances in the caller's sight; of one project: its own, and those of its keys."""
    query = scoped(select(AllowanceRow), caller)
    if project is None:
        return query
    owner = get_project(session, caller, project)
    keys = scoped(select(ApiKeyRow.id), caller).where(ApiKeyRow.project_id == owner.id)
    return query.where((AllowanceRow.scope_id == owner.id) | AllowanceRow.scope_id.in_(keys))


def get_allowance(session: Session, caller: Caller, allowance_id: str) -> AllowanceRow:
    """One allowance; NotFound when it is not in the caller's sight."""
    row = session.scalar(scoped(select(AllowanceRow), caller).where(AllowanceRow.id == allowance_id))
    if row is None:
        raise NotFound(f"there is no allowance {allowance_id}; `finmaas allowance list` shows yours")
    return row


def delete_allowance(session: Session, caller: Caller, now: datetime, row: AllowanceRow) -> None:
    """Removes it, with what was counted; gateways follow within a second."""
    _require_keeper(caller, Scope(row.scope))
    session.delete(row)
    bump_snapshot(session)
    before = describe_allowance(row)
    record_audit(session, caller, now, "allowance.delete", row.id, before, tenant_id=row.tenant_id)


def read_spent(session: Session, rows: Sequence[AllowanceRow], now: datetime) -> dict[str, Spent]:
    """The present window of each allowance."""
    calendars = _calendars(session, {row.tenant_id for row in rows})
    return {row.id: _read_window(session, row, calendars[row.tenant_id], now.timestamp()) for row in rows}


def describe_allowance(row: AllowanceRow) -> dict[str, Any]:
    """What the audit event says of it."""
    return {
        "scope": row.scope,
        "subject": row.label,
        "model": row.model,
        "unit": row.unit,
        "window": row.window_kind,
        "limit": row.amount,
        "currency": row.currency,
    }


def _read_window(session: Session, row: AllowanceRow, tenant: TenantRow, at: float) -> Spent:
    kind = WindowKind(row.window_kind)
    starts, ends = find_window(kind, at, tenant.time_zone, tenant.fiscal_day)
    key = 0 if kind.is_standing else starts
    window = session.scalar(
        select(LedgerWindowRow).where(LedgerWindowRow.allowance_id == row.id, LedgerWindowRow.starts_at == key)
    )
    if window is None:
        return Spent(starts or None, ends or None, 0, 0, 0)
    slices = session.scalars(
        select(LedgerSliceRow).where(LedgerSliceRow.window_id == window.id, LedgerSliceRow.closed.is_(False))
    )
    reserved = sum(one.reserved for one in slices)
    return Spent(starts or None, ends or None, window.settled, window.outstanding, reserved)


def _calendars(session: Session, tenant_ids: set[str]) -> dict[str, TenantRow]:
    rows = session.scalars(select(TenantRow).where(TenantRow.id.in_(tenant_ids)))  # unscoped: of rows in sight
    return {row.id: row for row in rows}


def _find_subject(session: Session, caller: Caller, spec: AllowanceSpec) -> tuple[TenantRow, str, str]:
    """The tenant that an allowance belongs to, the id it is kept under, and its subject as people name it."""
    _require_keeper(caller, spec.scope)
    if spec.scope is Scope.TENANT:
        tenant = get_tenant(session, caller, spec.subject)
        return tenant, tenant.id, tenant.name
    if spec.scope is Scope.PROJECT:
        project = get_project(session, caller, spec.subject)
        return project.tenant, project.id, project.ref
    if spec.scope is Scope.KEY:
        key = session.scalar(scoped(select(ApiKeyRow), caller).where(ApiKeyRow.id == spec.subject))
        if key is None:
            raise NotFound(f"there is no API key {spec.subject}; `finmaas key list` shows yours")
        return key.project.tenant, key.id, f"key {key.name or key.id}"
    if spec.scope is Scope.PERSON:
        person = get_principal(session, caller, spec.subject)
        if person.tenant is None:
            raise InvalidInput(f"{person.name} belongs to no tenant, and acts for any; bound the projects instead")
        return person.tenant, person.id, f"person {person.name}"
    _check_model(spec.subject)
    if not spec.subject:
        raise InvalidInput("say which model, as tenant/project/endpoint")
    return get_project(session, caller, spec.subject.rpartition("/")[0]).tenant, spec.subject, spec.subject


def _require_keeper(caller: Caller, scope: Scope) -> None:
    if scope is Scope.TENANT:
        caller.require()
    else:
        caller.require(Role.TENANT_ADMIN)


def _check_model(model: str) -> None:
    if model and len([part for part in model.split("/") if part]) != 3:
        raise InvalidInput(f"{model[:120]!r} is not an endpoint's full name; write tenant/project/endpoint")
