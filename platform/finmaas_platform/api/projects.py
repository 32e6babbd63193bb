"""Routes of projects."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.etag import IfMatchDep, check_version, set_etag
from finmaas_platform.api.idempotency import OnceDep
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.domain.names import Name
from finmaas_platform.services import projects

router = APIRouter(prefix="/projects", tags=["projects"])


class ProjectCreate(RequestBody):
    """A project to make."""

    tenant: Name = Field(examples=["retail-risk"])
    name: Name = Field(examples=["complaints"])
    display_name: str = Field("", max_length=200, examples=["Complaint triage"])


class ProjectChange(RequestBody):
    """What to change."""

    cost_centre: str = Field(max_length=100, description="Where usage is booked; empty: the tenant's.")


class ProjectView(BaseModel):
    """A use case inside a tenant; `ref` is how other routes name it."""

    id: str
    tenant: str
    name: str
    ref: str
    display_name: str
    created_at: datetime
    version: int
    cost_centre: str


def show_project(row: ProjectRow) -> ProjectView:
    """The row as the API shows it."""
    return ProjectView(
        id=row.id,
        tenant=row.tenant.name,
        name=row.name,
        ref=row.ref,
        display_name=row.display_name,
        created_at=row.created_at,
        version=row.version,
        cost_centre=row.cost_centre,
    )


@router.get("", summary="List projects")
def list_projects(
    caller: CallerDep,
    session: SessionDep,
    tenant: Annotated[str | None, Query(description="Only of this tenant.")] = None,
    limit: LimitParam = DEFAULT_LIMIT,
    cursor: CursorParam = None,
) -> Page[ProjectView]:
    """The projects of the caller's tenant; platform-wide principals see all."""
    query = projects.select_projects(session, caller, tenant)
    return paginate(session, query, ProjectRow.id, limit, cursor).view(show_project)


@router.post("", status_code=201, response_model=ProjectView, summary="Make a project")
def create_project(
    body: ProjectCreate, caller: CallerDep, session: SessionDep, deps: DepsDep, once: OnceDep, response: Response
) -> ProjectView | JSONResponse:
    """For admins of the tenant."""

    def make() -> ProjectView:
        now = deps.clock.now()
        row = projects.create_project(session, caller, now, body.tenant, body.name, body.display_name)
        set_etag(response, row.version)
        return show_project(row)

    return once.run(session, make)


@router.get("/{tenant}/{project}", summary="Show a project")
def get_project(tenant: str, project: str, caller: CallerDep, session: SessionDep, response: Response) -> ProjectView:
    """By the names of tenant and project."""
    row = projects.get_project(session, caller, f"{tenant}/{project}")
    set_etag(response, row.version)
    return show_project(row)


@router.patch("/{tenant}/{project}", summary="Set a project's cost centre")
def update_project(
    tenant: str,
    project: str,
    body: ProjectChange,
    caller: CallerDep,
    session: SessionDep,
    deps: DepsDep,
    if_match: IfMatchDep,
    response: Response,
) -> ProjectView:
    """Usage is booked there from now on; for admins of the tenant."""
    row = projects.get_project(session, caller, f"{tenant}/{project}")
    check_version(row.version, if_match)
    projects.update_project(session, caller, deps.clock.now(), row, body.cost_centre)
    set_etag(response, row.version)
    return show_project(row)
