"""Routes of traffic plans: where an endpoint's requests go."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel

from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.etag import IfMatchDep, check_version, set_etag
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.db.traffic import TrafficRow
from finmaas_platform.domain.traffic import TrafficPlan
from finmaas_platform.services import traffic
from finmaas_platform.services.endpoints import MAKERS
from finmaas_platform.services.projects import get_project

router = APIRouter(prefix="/traffic", tags=["traffic"])


class TrafficView(BaseModel):
    """The traffic plan of an endpoint. `ended` tells how its last canary ended, and why."""

    endpoint: str
    plan: TrafficPlan
    ended: dict[str, Any] | None
    updated_at: datetime
    updated_by: str
    version: int


def show_plan(row: TrafficRow) -> TrafficView:
    """The row as the API shows it."""
    return TrafficView(
        endpoint=row.full_name,
        plan=TrafficPlan.model_validate(row.document),
        ended=row.ended,
        updated_at=row.updated_at,
        updated_by=row.updated_by,
        version=row.version,
    )


@router.get("", summary="List traffic plans")
def list_plans(
    caller: CallerDep, session: SessionDep, limit: LimitParam = DEFAULT_LIMIT, cursor: CursorParam = None
) -> Page[TrafficView]:
    """Of the endpoints in the caller's sight."""
    query = traffic.select_plans(session, caller)
    return paginate(session, query, TrafficRow.digest, limit, cursor).view(show_plan)


@router.get("/{tenant}/{project}/{endpoint}", summary="Show an endpoint's traffic plan")
def get_plan(
    tenant: str, project: str, endpoint: str, caller: CallerDep, session: SessionDep, response: Response
) -> TrafficView:
    """404 when it has none: then all requests go to the endpoint itself."""
    row = traffic.get_plan(session, caller, get_project(session, caller, f"{tenant}/{project}"), endpoint)
    set_etag(response, row.version)
    return show_plan(row)


@router.put("/{tenant}/{project}/{endpoint}", summary="Set an endpoint's traffic plan")
def set_plan(
    tenant: str,
    project: str,
    endpoint: str,
    body: TrafficPlan,
    caller: CallerDep,
    session: SessionDep,
    deps: DepsDep,
    response: Response,
    if_match: IfMatchDep,
) -> TrafficView:
    """The whole plan; for tenant-admins and ml-engineers. Gateways that are connected follow within a second."""
    owner = get_project(session, caller, f"{tenant}/{project}")
    if if_match is not None:
        check_version(traffic.get_plan(session, caller, owner, endpoint).version, if_match)
    row = traffic.store_plan(session, caller, deps.clock.now(), owner, endpoint, body)
    session.flush()
    set_etag(response, row.version)
    return show_plan(row)


@router.delete("/{tenant}/{project}/{endpoint}", status_code=204, summary="Remove an endpoint's traffic plan")
def remove_plan(
    tenant: str, project: str, endpoint: str, caller: CallerDep, session: SessionDep, deps: DepsDep
) -> None:
    """All requests go to the endpoint itself again."""
    row = traffic.get_plan(session, caller, get_project(session, caller, f"{tenant}/{project}"), endpoint)
    traffic.remove_plan(session, caller, deps.clock.now(), row)


@router.post("/{tenant}/{project}/{endpoint}/rollback", summary="Give a canary up")
def roll_back(
    tenant: str, project: str, endpoint: str, caller: CallerDep, session: SessionDep, deps: DepsDep
) -> TrafficView:
    """Nothing is sent to it any more; what it answers just now is still delivered."""
    return _end(session, caller, deps, f"{tenant}/{project}", endpoint, "rolled_back")


@router.post("/{tenant}/{project}/{endpoint}/promote", summary="Make a canary the endpoint's own")
def promote(
    tenant: str, project: str, endpoint: str, caller: CallerDep, session: SessionDep, deps: DepsDep
) -> TrafficView:
    """All requests go to what was the canary."""
    return _end(session, caller, deps, f"{tenant}/{project}", endpoint, "promoted")


def _end(
    session: SessionDep, caller: CallerDep, deps: DepsDep, project: str, endpoint: str, verdict: str
) -> TrafficView:
    caller.require(*MAKERS)
    row = traffic.get_plan(session, caller, get_project(session, caller, project), endpoint)
    traffic.end_canary(session, caller, deps.clock.now(), row, f"by {caller.name}", verdict)
    session.flush()
    return show_plan(row)
