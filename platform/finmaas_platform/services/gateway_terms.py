"""What gateways are told of traffic, outside providers and tenants: the snapshot's part that routing lives from."""

from __future__ import annotations

from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from finmaas_platform.db.endpoints import EndpointRow
from finmaas_platform.db.principals import PrincipalRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.providers import ProviderApprovalRow, ProviderRow
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.db.traffic import TrafficRow
from finmaas_platform.domain.endpoints import EndpointState
from finmaas_platform.domain.tenants import TenantState
from finmaas_platform.domain.traffic import Sight, TrafficPlan, resolve_plan, resolve_terms


def show_tenants(session: Session) -> list[dict[str, Any]]:
    """Tenants whose terms are not the usual ones."""
    unusual = or_(TenantRow.weight != 1, TenantRow.max_staleness_s.is_not(None))
    rows = session.scalars(select(TenantRow).where(unusual).order_by(TenantRow.id))  # unscoped: a gateway serves all
    return [{"tenant_id": row.id, "weight": row.weight, "max_staleness_s": row.max_staleness_s} for row in rows]


def show_traffic(session: Session, gateways: int) -> dict[str, dict[str, Any]]:
    """What gateways are told of each live endpoint, by its id: its plan, if it has one, and its terms of sharing."""
    live = session.scalars(
        select(EndpointRow).where(EndpointRow.state != EndpointState.STOPPED)  # unscoped: a gateway serves all tenants
    ).all()
    plans = {(row.project_id, row.endpoint): row for row in session.scalars(select(TrafficRow))}  # unscoped: as above
    providers = {row.name: row.id for row in session.scalars(select(ProviderRow))}  # unscoped: of no tenant
    tenants = {row.name: row.id for row in session.scalars(select(TenantRow))}  # unscoped: as above
    by_project: dict[str, dict[str, str]] = {}
    for row in live:
        by_project.setdefault(row.project_id, {})[row.name] = row.id
    shown = {}
    for row in live:
        found = plans.get((row.project_id, row.name))
        plan = None if found is None else TrafficPlan.model_validate(found.document)
        sight = Sight(by_project[row.project_id], providers, tenants)
        terms = resolve_terms(plan, _engine_limit(row), gateways, sight)
        traffic = None if plan is None or found is None else resolve_plan(plan, found.digest, sight)
        shown[row.id] = {"terms": terms, "traffic": traffic}
    return shown


def show_providers(session: Session) -> list[dict[str, Any]]:
    """What gateways are told of outside providers; the secret stays sealed."""
    approved: dict[str, list[str]] = {}
    for row in session.scalars(select(ProviderApprovalRow)):  # unscoped: a gateway serves all tenants
        approved.setdefault(row.provider_id, []).append(row.project_id)
    return [
        {
            "provider_id": row.id,
            "name": row.name,
            "base_url": row.base_url,
            "sealed": row.sealed,
            "projects": sorted(approved.get(row.id, ())),
        }
        for row in session.scalars(select(ProviderRow).order_by(ProviderRow.id))  # unscoped: of no tenant
    ]


def show_people(session: Session) -> dict[str, Any]:
    """Principals that are linked to the identity provider, and the projects that they may act for; often neither."""
    query = select(PrincipalRow).where(PrincipalRow.subject.is_not(None))  # unscoped: a gateway serves all tenants
    people = [_show_person(row) for row in session.scalars(query.order_by(PrincipalRow.id))]
    if not people:
        return {"people": [], "projects": []}
    active = select(ProjectRow).join(TenantRow).where(TenantRow.state == TenantState.ACTIVE)  # unscoped: as above
    rows = session.scalars(active.order_by(ProjectRow.id))
    projects = [{"project_id": row.id, "ref": row.ref, "tenant_id": row.tenant_id} for row in rows]
    return {"people": people, "projects": projects}


def _show_person(row: PrincipalRow) -> dict[str, Any]:
    return {
        "issuer": row.issuer,
        "subject": row.subject,
        "principal_id": row.id,
        "name": row.name,
        "role": row.role,
        "tenant_id": row.tenant_id,
        "disabled": row.disabled or (row.tenant is not None and row.tenant.state != TenantState.ACTIVE),
    }


def _engine_limit(row: EndpointRow) -> int | None:
    limit = row.engine.get("max_num_seqs") or (row.engine.get("vllm") or {}).get("max_num_seqs")
    return limit if isinstance(limit, int) and limit > 0 else None
