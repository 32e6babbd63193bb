"""Traffic plans: set by those who keep endpoints, followed by gateways within a second, ended when a canary fails."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from finmaas_core.errors import Conflict, InvalidSpec, NotAllowed, NotFound
from finmaas_platform.db.endpoints import EndpointRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.providers import ProviderApprovalRow, ProviderRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.db.traffic import TrafficRow
from finmaas_platform.db.usage_records import UsageRecordRow
from finmaas_platform.domain.endpoints import EndpointState
from finmaas_platform.domain.principals import Caller
from finmaas_platform.domain.traffic import CanaryPart, TrafficPlan, digest_of
from finmaas_platform.services.audit import SYSTEM, record_audit
from finmaas_platform.services.endpoints import MAKERS
from finmaas_platform.services.snapshots import bump_snapshot
from finmaas_platform.services.versions import lock_project
from finmaas_serving.gateway.canary import KEPT, Bounds, Outcome, decide_rollback


def select_plans(session: Session, caller: Caller) -> Select[TrafficRow]:
    """The plans in the caller's sight."""
    return scoped(select(TrafficRow), caller)


def get_plan(session: Session, caller: Caller, project: ProjectRow, endpoint: str) -> TrafficRow:
    """The plan of an endpoint; NotFound when it has none."""
    row = _find_plan(session, caller, project, endpoint)
    if row is None:
        raise NotFound(
            f"{project.ref}/{endpoint} has no traffic plan: all its requests go to itself; "
            f"`finmaas route set {endpoint} …` makes one"
        )
    return row


def store_plan(
    session: Session, caller: Caller, now: datetime, project: ProjectRow, endpoint: str, plan: TrafficPlan
) -> TrafficRow:
    """Sets the plan of an endpoint. NotFound or InvalidSpec name the target that cannot be one."""
    caller.require(*MAKERS)
    lock_project(session, project)
    _check_targets(session, project, endpoint, plan)
    row = _find_plan(session, caller, project, endpoint)
    document = plan.model_dump(mode="json")
    if row is not None and row.document == document:
        return row
    before = None if row is None else row.document
    if row is None:
        row = TrafficRow(project_id=project.id, endpoint=endpoint, project=project, tenant_id=project.tenant_id)
        session.add(row)
    _write(session, caller, now, row, document)
    record_audit(session, caller, now, "traffic.set", row.full_name, before, document, tenant_id=row.tenant_id)
    return row


def remove_plan(session: Session, caller: Caller, now: datetime, row: TrafficRow) -> None:
    """Takes the plan away: all requests go to the endpoint itself again."""
    caller.require(*MAKERS)
    session.delete(row)
    bump_snapshot(session)
    record_audit(session, caller, now, "traffic.remove", row.full_name, row.document, tenant_id=row.tenant_id)


def end_canary(session: Session, caller: Caller, now: datetime, row: TrafficRow, reason: str, verdict: str) -> None:
    """Takes the canary out of a plan, or (`promoted`) makes it all of the split. Conflict when there is none."""
    plan = TrafficPlan.model_validate(row.document)
    if plan.canary is None:
        raise Conflict(
            f"{row.full_name} has no canary now; `finmaas route show {row.endpoint}` tells how the last ended"
        )
    before = row.document
    changed: dict[str, Any] = {"canary": None}
    if verdict == "promoted":
        changed["split"] = [{"endpoint": plan.canary.endpoint, "weight": 1}]
    _write(session, caller, now, row, {**before, **changed})
    row.ended = {"endpoint": plan.canary.endpoint, "verdict": verdict, "reason": reason, "at": now.isoformat()}
    action = f"traffic.canary_{verdict}"
    after = {**row.document, "reason": reason}
    record_audit(session, caller, now, action, row.full_name, before, after, tenant_id=row.tenant_id)


def judge_canaries(session: Session, now: datetime) -> list[tuple[str, str]]:
    """Gives up the canaries that break their bounds in the usage records of all gateways; returns (endpoint, why)."""
    ended = []
    rows = session.scalars(select(TrafficRow))  # unscoped: the platform watches over all tenants
    for row in rows:
        canary = TrafficPlan.model_validate(row.document).canary
        if canary is None:
            continue
        bounds = Bounds(canary.max_error_rate, canary.max_latency_ms, canary.min_requests)
        reason = decide_rollback(_find_outcomes(session, row, canary), bounds)
        if reason is not None:
            end_canary(session, SYSTEM, now, row, reason, "rolled_back")
            ended.append((row.full_name, reason))
    return ended


def _write(session: Session, caller: Caller, now: datetime, row: TrafficRow, document: dict[str, Any]) -> None:
    row.document = document
    row.updated_at, row.updated_by = now, caller.id
    row.digest = digest_of(document, (row.version or 0) + 1)
    bump_snapshot(session)


def _find_plan(session: Session, caller: Caller, project: ProjectRow, endpoint: str) -> TrafficRow | None:
    query = scoped(select(TrafficRow), caller)
    return session.scalar(query.where(TrafficRow.project_id == project.id, TrafficRow.endpoint == endpoint))


def _check_targets(session: Session, project: ProjectRow, endpoint: str, plan: TrafficPlan) -> None:
    live = set(
        session.scalars(
            select(EndpointRow.name).where(  # unscoped: of a project that was found in scope
                EndpointRow.project_id == project.id, EndpointRow.state != EndpointState.STOPPED
            )
        )
    )
    if missing := sorted({endpoint, *plan.endpoints} - live):
        raise NotFound(f"{project.ref} has no live endpoint {missing[0]}; deploy it first, `finmaas endpoint list`")
    main = {part.endpoint for part in plan.split} or {endpoint}
    if plan.canary is not None and plan.canary.endpoint in main:
        raise InvalidSpec(f"{plan.canary.endpoint} is in the split already, so it cannot be the canary too")
    if plan.shadow is not None and plan.shadow.endpoint in main:
        raise InvalidSpec(f"{plan.shadow.endpoint} is in the split already; a shadow only gets copies")
    for name in sorted(plan.providers):
        _check_approval(session, project, name)
    tenants = set(session.scalars(select(TenantRow.name)))  # unscoped: names alone, to tell a wrong one
    if unknown := sorted({part.tenant for part in plan.sharing.reserved} - tenants):
        raise NotFound(f"there is no tenant {unknown[0]} to reserve for")


def _check_approval(session: Session, project: ProjectRow, name: str) -> None:
    approval = session.scalar(
        select(ProviderApprovalRow)  # unscoped: of a project that was found in scope
        .join(ProviderRow, ProviderRow.id == ProviderApprovalRow.provider_id)
        .where(ProviderRow.name == name, ProviderApprovalRow.project_id == project.id)
    )
    if approval is None:
        raise NotAllowed(
            f"{project.ref} is not approved for the provider {name}; a platform-admin approves it with "
            f"`finmaas provider approve {name} {project.ref}`"
        )


def _find_outcomes(session: Session, row: TrafficRow, canary: CanaryPart) -> Sequence[Outcome]:
    """The canary's latest answers since the plan was set, over all gateways."""
    canary_id = session.scalar(
        select(EndpointRow.id).where(  # unscoped: of the plan's own project
            EndpointRow.project_id == row.project_id,
            EndpointRow.name == canary.endpoint,
            EndpointRow.state != EndpointState.STOPPED,
        )
    )
    if canary_id is None:
        return ()
    answered = (UsageRecordRow.target_id == canary_id) & (UsageRecordRow.traffic == "canary")
    records = session.execute(
        select(UsageRecordRow.status, UsageRecordRow.ttft_ms, UsageRecordRow.target_id)  # unscoped: as judge_canaries
        .where(
            UsageRecordRow.at >= row.updated_at,
            or_(answered, UsageRecordRow.failed_target_id == canary_id),
        )
        .order_by(UsageRecordRow.at.desc())
        .limit(KEPT)
    )
    return [
        Outcome(target_id != canary_id or status >= 500, None if target_id != canary_id else ttft_ms)
        for status, ttft_ms, target_id in records
        if status != 499
    ]
