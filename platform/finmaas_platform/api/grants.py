"""Routes of grants."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.idempotency import OnceDep
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.db.grants import GrantRow
from finmaas_platform.services import grants

router = APIRouter(prefix="/grants", tags=["grants"])


class GrantCreate(RequestBody):
    """A grant to make."""

    endpoint: str = Field(examples=["retail-risk/complaints/triage"])
    project: str = Field(examples=["retail-risk/branch-app"])


class GrantView(BaseModel):
    """Lets `project` call `endpoint`, until it is revoked."""

    id: str
    endpoint: str
    endpoint_id: str
    project: str
    created_at: datetime
    created_by: str
    revoked_at: datetime | None


def show_grant(row: GrantRow) -> GrantView:
    """The row as the API shows it."""
    return GrantView(
        id=row.id,
        endpoint=row.endpoint,
        endpoint_id=row.endpoint_id,
        project=row.project.ref,
        created_at=row.created_at,
        created_by=row.created_by,
        revoked_at=row.revoked_at,
    )


@router.get("", summary="List grants")
def list_grants(
    caller: CallerDep,
    session: SessionDep,
    project: Annotated[str | None, Query(description="Only those that this project got.")] = None,
    limit: LimitParam = DEFAULT_LIMIT,
    cursor: CursorParam = None,
) -> Page[GrantView]:
    """Those that the caller's tenant gave or got."""
    query = grants.select_grants(session, caller, project)
    return paginate(session, query, GrantRow.id, limit, cursor).view(show_grant)


@router.post("", status_code=201, response_model=GrantView, summary="Let a project call an endpoint")
def create_grant(
    body: GrantCreate, caller: CallerDep, session: SessionDep, deps: DepsDep, once: OnceDep
) -> GrantView | JSONResponse:
    """For admins of the tenant; between two tenants, for platform-admins."""

    def make() -> GrantView:
        return show_grant(grants.create_grant(session, caller, deps.clock.now(), body.endpoint, body.project))

    return once.run(session, make)


@router.post("/{grant_id}/revoke", summary="Take a grant back")
def revoke_grant(grant_id: str, caller: CallerDep, session: SessionDep, deps: DepsDep) -> GrantView:
    """For the side that gave it."""
    return show_grant(grants.revoke_grant(session, caller, deps.clock.now(), grant_id))
