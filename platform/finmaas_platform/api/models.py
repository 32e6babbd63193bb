"""Routes of models: registering versions whose files were put as blobs, and looking at them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from finmaas_core.errors import Conflict
from finmaas_platform.api.dependencies import CallerDep, DepsDep, NodeCallerDep, SessionDep
from finmaas_platform.api.etag import set_etag
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.db.models import ModelRow, ModelVersionRow
from finmaas_platform.domain.model_versions import VersionState
from finmaas_platform.domain.principals import Role
from finmaas_platform.services import models
from finmaas_platform.services.model_checks import check_model
from finmaas_platform.services.projects import get_project
from finmaas_platform.services.signatures import find_bundle
from finmaas_registry.manifest import MAX_FILES, FileEntry

router = APIRouter(prefix="/models", tags=["models"])
node_router = APIRouter(prefix="/node", tags=["nodes"])


class FileBody(RequestBody):
    """A file of a version; its bytes were put under its digest."""

    path: str = Field(max_length=1024, examples=["model.safetensors"])
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0, le=2**62)


class ModelVersionCreate(RequestBody):
    """A version to register."""

    kind: Literal["full", "adapter", "merged"] = "full"
    files: list[FileBody] = Field(min_length=1, max_length=MAX_FILES)
    base: str | None = Field(None, max_length=200, description="What an adapter was trained on, e.g. `qwen3@1`.")
    parents: list[str] = Field(
        [], max_length=16, description="What a merged version was merged from, e.g. `faq@2`, `intents@3`."
    )
    description: str | None = Field(None, max_length=10_000)


class ModelView(BaseModel):
    """A named sequence of versions."""

    id: str
    name: str
    project: str
    latest_version: int
    latest_state: str | None = Field(None, description="Where the newest version stands in its life cycle.")
    aliases: dict[str, int] = Field({}, description="Aliases, and the number of the version each points at.")
    created_at: datetime
    created_by: str


class LineageView(BaseModel):
    """Where a version came from; null where it was imported."""

    job_id: str | None
    dataset_version_id: str | None
    base_version_id: str | None


class ModelVersionView(BaseModel):
    """One immutable artefact: full weights, or an adapter on a base."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    model: str
    project: str
    version: int
    ref: str
    kind: str
    state: str
    revision: int = Field(description="Rises with each move of the state; the ETag.")
    author_id: str | None
    description: str
    files: list[dict[str, Any]]
    size_bytes: int
    digest: str
    metrics: dict[str, Any]
    lineage: LineageView
    created_at: datetime
    created_by: str
    locked_until: datetime | None = Field(description="Until when its bytes cannot be removed from the bucket.")


def show_model(row: ModelRow, standing: models.Standing | None = None) -> ModelView:
    """The row as the API shows it."""
    standing = standing or models.Standing()
    return ModelView(
        id=row.id,
        name=row.name,
        project=row.project.ref,
        latest_version=row.latest_version,
        latest_state=standing.state,
        aliases=standing.aliases,
        created_at=row.created_at,
        created_by=row.created_by,
    )


def show_model_version(row: ModelVersionRow) -> ModelVersionView:
    """The row as the API shows it."""
    return ModelVersionView(
        id=row.id,
        model=row.model.name,
        project=row.model.project.ref,
        version=row.number,
        ref=row.ref,
        kind=row.kind,
        state=row.state,
        revision=row.revision,
        author_id=row.author_id,
        description=row.description,
        files=row.files,
        size_bytes=row.size_bytes,
        digest=row.digest,
        metrics=row.metrics,
        lineage=LineageView(
            job_id=row.job_id, dataset_version_id=row.dataset_version_id, base_version_id=row.base_version_id
        ),
        created_at=row.created_at,
        created_by=row.created_by,
        locked_until=row.locked_until,
    )


@router.get("", summary="List models")
def list_models(
    caller: CallerDep,
    session: SessionDep,
    project: Annotated[str | None, Query(description="Only of this project, `tenant/project`.")] = None,
    limit: LimitParam = DEFAULT_LIMIT,
    cursor: CursorParam = None,
) -> Page[ModelView]:
    """The models in the caller's sight, newest first."""
    query = models.select_models(session, caller, project)
    page = paginate(session, query, ModelRow.id, limit, cursor)
    standings = models.find_standings(session, caller, page.rows)
    return page.view(lambda row: show_model(row, standings[row.id]))


@router.get("/{tenant}/{project}/{name}", summary="Show a model")
def get_model(tenant: str, project: str, name: str, caller: CallerDep, session: SessionDep) -> ModelView:
    """By name; an unknown one is answered with names that are near."""
    owner = get_project(session, caller, f"{tenant}/{project}")
    row = models.get_model(session, caller, owner, name)
    return show_model(row, models.find_standings(session, caller, [row])[row.id])


@router.get("/{tenant}/{project}/{name}/versions", summary="List versions of a model")
def list_model_versions(
    tenant: str,
    project: str,
    name: str,
    caller: CallerDep,
    session: SessionDep,
    limit: LimitParam = DEFAULT_LIMIT,
    cursor: CursorParam = None,
) -> Page[ModelVersionView]:
    """Newest first."""
    owner = get_project(session, caller, f"{tenant}/{project}")
    query = models.select_versions(caller, models.get_model(session, caller, owner, name))
    return paginate(session, query, ModelVersionRow.number, limit, cursor).view(show_model_version)


@router.get("/{tenant}/{project}/{name}/versions/{selector}", summary="Show a version of a model")
def get_model_version(
    tenant: str, project: str, name: str, selector: str, caller: CallerDep, session: SessionDep, response: Response
) -> ModelVersionView:
    """By number or alias, with its files, metrics and lineage."""
    owner = get_project(session, caller, f"{tenant}/{project}")
    row = models.resolve_model_version(session, caller, owner, f"{name}@{selector}")
    set_etag(response, row.revision)
    return show_model_version(row)


@router.post("/{tenant}/{project}/{name}/versions", status_code=201, summary="Register a version")
def create_model_version(
    tenant: str,
    project: str,
    name: str,
    body: ModelVersionCreate,
    response: Response,
    caller: CallerDep,
    session: SessionDep,
    deps: DepsDep,
) -> ModelVersionView:
    """Its blobs were put before. Safe to repeat: 200 when a version has the same files already."""
    caller.require(Role.TENANT_ADMIN, Role.ML_ENGINEER)
    files = [FileEntry(file.path, file.sha256, file.size) for file in body.files]
    checked = check_model(deps, caller, body.kind, files, f"{tenant}/{project}")
    owner = get_project(session, caller, f"{tenant}/{project}")
    base = models.resolve_model_version(session, caller, owner, body.base) if body.base else None
    parents = [models.resolve_model_version(session, caller, owner, ref) for ref in body.parents]
    known = models.find_latest_number(session, caller, owner, name)
    row = models.register_model_version(
        session,
        caller,
        deps.clock.now(),
        owner,
        name,
        checked,
        base_version_id=base.id if base else None,
        description=body.description or "",
        parents=parents,
    )
    response.status_code = 201 if row.number > known else 200
    return show_model_version(row)


class NodeModelVersionView(ModelVersionView):
    """A version as a node sees it, with its signature."""

    signature: str | None


@node_router.get("/model-versions/{version_id}", summary="Show a model version to a node")
def get_node_model_version(version_id: str, caller: NodeCallerDep, session: SessionDep) -> NodeModelVersionView:
    """What a serving node lays out: the files by digest, and what they are verified by."""
    row = models.get_served_version(session, caller, version_id)
    if row.state == VersionState.RETIRED:
        raise Conflict(f"{row.ref} is retired and is not served any more; deploy another version")
    return NodeModelVersionView(**show_model_version(row).model_dump(), signature=find_bundle(session, row.id))
