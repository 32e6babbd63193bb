"""Endpoints: deploying model versions under a served name, changing and stopping them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.etag import IfMatchDep, check_version, set_etag
from finmaas_platform.api.idempotency import OnceDep
from finmaas_platform.api.paging import CursorParam, LimitParam, Page, paginate
from finmaas_platform.db.endpoints import EndpointRow
from finmaas_platform.domain.endpoints import EndpointState
from finmaas_platform.domain.names import Name
from finmaas_platform.services.endpoints import (
    EndpointChange,
    create_endpoint,
    get_endpoint,
    get_live_endpoint,
    select_endpoints,
    stop_endpoint,
    update_endpoint,
)
from finmaas_serving.llm_app import EngineSpec

router = APIRouter(prefix="/endpoints", tags=["endpoints"])

Replicas = Annotated[int, Field(ge=1, le=64, description="Engines that share the requests.")]


class NewEndpoint(BaseModel):
    """An endpoint to make."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"project": "default/default", "name": "intents", "model": "intents-tuned@1"}},
    )

    project: str
    name: Name
    model: Annotated[
        str, Field(description="Model version: name@3, name@alias, name (the newest) or tenant/project/name@3.")
    ]
    replicas: Replicas = 1
    engine: EngineSpec = EngineSpec()
    production: bool = Field(False, description="Serves approved model versions only.")


class EndpointPatch(BaseModel):
    """What to change; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    replicas: Replicas | None = None
    engine: EngineSpec | None = None
    production: bool | None = None


class ServedVersion(BaseModel):
    """The model version that an endpoint serves."""

    id: str
    ref: str


class Endpoint(BaseModel):
    """A served name; `reason` says in words why it is where it is."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    name: str
    project: str
    model_version: ServedVersion
    state: EndpointState
    reason: str
    replicas: int
    ready_replicas: int
    engine: dict[str, Any]
    production: bool
    created_at: datetime
    created_by: str
    stopped_at: datetime | None
    version: int


def to_view(row: EndpointRow) -> Endpoint:
    """An endpoint as the API shows it."""
    return Endpoint(
        id=row.id,
        name=row.name,
        project=row.project.ref,
        model_version=ServedVersion(id=row.model_version_id, ref=row.model_ref),
        state=EndpointState(row.state),
        reason=row.reason,
        replicas=row.replicas,
        ready_replicas=row.ready_replicas,
        engine=row.engine,
        production=row.production,
        created_at=row.created_at,
        created_by=row.created_by,
        stopped_at=row.stopped_at,
        version=row.version,
    )


@router.post("", status_code=201, response_model=Endpoint, summary="Deploy a model version")
def post_endpoint(body: NewEndpoint, session: SessionDep, caller: CallerDep, deps: DepsDep, once: OnceDep) -> Any:
    """The endpoint is pending until the cluster has it, and ready once a replica answers."""
    engine = body.engine.model_dump(exclude_unset=True, exclude_none=True)

    def make() -> Endpoint:
        now = deps.clock.now()
        row = create_endpoint(
            session, caller, now, body.project, body.name, body.model, body.replicas, engine, body.production
        )
        return to_view(row)

    return once.run(session, make)


@router.get("", summary="List endpoints, newest first")
def list_endpoints(
    session: SessionDep,
    caller: CallerDep,
    project: str | None = None,
    stopped: Annotated[bool, Query(description="Also those that were stopped.")] = False,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> Page[Endpoint]:
    """The endpoints in your sight, of one project if given."""
    query = select_endpoints(session, caller, project, stopped)
    return paginate(session, query, EndpointRow.id, limit, cursor).view(to_view)


@router.get("/{tenant}/{project}/{name}", summary="One endpoint")
def show_endpoint(
    tenant: str, project: str, name: str, session: SessionDep, caller: CallerDep, response: Response
) -> Endpoint:
    """The live endpoint of that name, else the one that was stopped last."""
    row = get_endpoint(session, caller, f"{tenant}/{project}", name)
    set_etag(response, row.version)
    return to_view(row)


@router.patch("/{tenant}/{project}/{name}", summary="Change an endpoint")
def patch_endpoint(
    tenant: str,
    project: str,
    name: str,
    body: EndpointPatch,
    session: SessionDep,
    caller: CallerDep,
    deps: DepsDep,
    if_match: IfMatchDep,
    response: Response,
) -> Endpoint:
    """Another model version, other replicas or engine settings; the old replicas serve until the new ones do."""
    row = get_live_endpoint(session, caller, f"{tenant}/{project}", name)
    check_version(row.version, if_match)
    engine = None if body.engine is None else body.engine.model_dump(exclude_unset=True, exclude_none=True)
    change = EndpointChange(body.model, body.replicas, engine, body.production)
    row = update_endpoint(session, caller, deps.clock.now(), row, change)
    set_etag(response, row.version)
    return to_view(row)


@router.delete("/{tenant}/{project}/{name}", summary="Stop an endpoint")
def delete_endpoint(
    tenant: str,
    project: str,
    name: str,
    session: SessionDep,
    caller: CallerDep,
    deps: DepsDep,
    if_match: IfMatchDep,
) -> Endpoint:
    """The name is free again at once; the endpoint stays in the history as stopped."""
    row = get_live_endpoint(session, caller, f"{tenant}/{project}", name)
    check_version(row.version, if_match)
    return to_view(stop_endpoint(session, caller, deps.clock.now(), row))
