"""The numbered snapshot that gateways live from: keys, routes, grants, guardrail policies."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Select, or_, select, update
from sqlalchemy.orm import Session

from finmaas_platform.db.allowances import AllowanceRow, PriceRow
from finmaas_platform.db.api_keys import ApiKeyRow
from finmaas_platform.db.endpoints import EndpointRow
from finmaas_platform.db.grants import GrantRow
from finmaas_platform.db.policies import PolicyRow
from finmaas_platform.db.snapshots import SnapshotCounterRow
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.domain.endpoints import EndpointState
from finmaas_platform.domain.tenants import TenantState
from finmaas_platform.services.gateway_terms import show_people, show_providers, show_tenants, show_traffic

COUNTER_ID = 1


def bump_snapshot(session: Session) -> None:
    """Raises the snapshot's number; call it in every transaction that changes keys, grants, endpoints or tenants.

    The row lock makes such transactions commit one after the other, so a number never hides an earlier change.
    """
    raise_it = update(SnapshotCounterRow).values(number=SnapshotCounterRow.number + 1)
    raised = session.execute(raise_it.where(SnapshotCounterRow.id == COUNTER_ID))
    if raised.rowcount == 0:  # type: ignore[attr-defined]
        session.add(SnapshotCounterRow(id=COUNTER_ID, number=1))
        session.flush()


def find_snapshot_number(session: Session) -> int:
    """The present number; 0 before the first change."""
    return session.scalar(select(SnapshotCounterRow.number).where(SnapshotCounterRow.id == COUNTER_ID)) or 0


def build_snapshot(session: Session, now: datetime, replica_secret: str, gateways: int = 1) -> dict[str, Any]:
    """The whole document as JSON values, of one moment: call it in a reading transaction (`read_unit`).

    `gateways` is how many share the replicas. Keys that are revoked, expired or of a tenant that is not active are left
    out; a gateway checks expiry itself too.
    """
    traffic = show_traffic(session, gateways)
    return {
        "number": find_snapshot_number(session),
        "issued_at": now.isoformat(),
        "replica_secret": replica_secret,
        "keys": [_show_key(row) for row in _live_keys(session, now)],
        "routes": [_show_route(row) | traffic[row.id] for row in _live_endpoints(session)],
        "tenants": show_tenants(session),
        "providers": show_providers(session),
        "policies": [_show_policy(row) for row in session.scalars(_all_policies())],
        "allowances": [_show_allowance(row) for row in session.scalars(_all_allowances())],
        "prices": [describe_price(row) for row in session.scalars(_all_prices())],
        **show_people(session),
        "calendars": [_show_calendar(row) for row in session.scalars(_all_tenants())],
        "grants": [{"project_id": row.project_id, "endpoint_id": row.endpoint_id} for row in _live_grants(session)],
    }


def _live_keys(session: Session, now: datetime) -> list[ApiKeyRow]:
    query = (
        select(ApiKeyRow)  # unscoped: a gateway serves all tenants
        .join(TenantRow, ApiKeyRow.tenant_id == TenantRow.id)
        .where(
            ApiKeyRow.revoked_at.is_(None),
            or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > now),
            TenantRow.state == TenantState.ACTIVE,
        )
    )
    return list(session.scalars(query.order_by(ApiKeyRow.id)))


def _live_endpoints(session: Session) -> list[EndpointRow]:
    query = select(EndpointRow).where(EndpointRow.state != EndpointState.STOPPED)  # unscoped: as above
    return list(session.scalars(query.order_by(EndpointRow.id)))


def _live_grants(session: Session) -> list[GrantRow]:
    query = select(GrantRow).where(GrantRow.revoked_at.is_(None))  # unscoped: as above
    return list(session.scalars(query.order_by(GrantRow.id)))


def _all_policies() -> Select[PolicyRow]:
    return select(PolicyRow).order_by(PolicyRow.project_id)  # unscoped: as above


def _all_allowances() -> Select[AllowanceRow]:
    return select(AllowanceRow).order_by(AllowanceRow.id)  # unscoped: as above


def _all_prices() -> Select[PriceRow]:
    return select(PriceRow).order_by(PriceRow.id)  # unscoped: as above


def _all_tenants() -> Select[TenantRow]:
    return select(TenantRow).order_by(TenantRow.id)  # unscoped: as above


def _show_allowance(row: AllowanceRow) -> dict[str, Any]:
    return {
        "allowance_id": row.id,
        "tenant_id": row.tenant_id,
        "scope": row.scope,
        "scope_id": row.scope_id,
        "model": row.model,
        "unit": row.unit,
        "window": row.window_kind,
        "limit": row.amount,
        "currency": row.currency,
        "label": f"{row.scope} {row.label}" if row.scope != "key" else row.label,
    }


def describe_price(row: PriceRow) -> dict[str, Any]:
    """A price as gateways and audit events tell it."""
    names = ("model", "currency", "valid_from", "input_nano", "cached_nano", "output_nano", "reasoning_nano")
    return {name: getattr(row, name) for name in names}


def _show_calendar(row: TenantRow) -> dict[str, Any]:
    return {
        "tenant_id": row.id,
        "time_zone": row.time_zone,
        "fiscal_day": row.fiscal_day,
        "currency": row.currency,
    }


def _show_policy(row: PolicyRow) -> dict[str, Any]:
    return {"project_id": row.project_id, "digest": row.digest, "document": row.document}


def _show_key(row: ApiKeyRow) -> dict[str, Any]:
    return {
        "hash": row.hash,
        "key_id": row.id,
        "name": row.name,
        "project_id": row.project_id,
        "project": row.project.ref,
        "tenant_id": row.tenant_id,
        "models": row.models,
        "methods": row.methods,
        "networks": row.networks,
        "batch": row.priority == "batch",
        "expires_at": None if row.expires_at is None else row.expires_at.timestamp(),
    }


def _show_route(row: EndpointRow) -> dict[str, Any]:
    return {
        "endpoint_id": row.id,
        "name": row.full_name,
        "short_name": row.name,
        "project_id": row.project_id,
        "app": row.id,
        "model_name": row.full_name,
        "model_version_id": row.model_version_id,
        "model_version": row.model_ref,
        "state": row.state,
        "max_model_len": row.engine.get("max_model_len"),
    }
