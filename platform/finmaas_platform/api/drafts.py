"""Routes of drafts: what Hub clients have committed, and how it becomes a version."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from finmaas_platform.api.datasets import DatasetVersionView, show_dataset_version
from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.idempotency import OnceDep
from finmaas_platform.api.models import ModelVersionView, show_model_version
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.db.drafts import DraftRow
from finmaas_platform.domain.hub import RepoKind
from finmaas_platform.services import drafts
from finmaas_platform.services.projects import get_project
from finmaas_registry.splits import Fractions, parse_fractions

if TYPE_CHECKING:
    from finmaas_registry.dataset_import import ImportOptions

router = APIRouter(prefix="/drafts", tags=["drafts"])


class DraftView(BaseModel):
    """The files that the next version of a model or dataset will have."""

    id: str
    kind: str
    name: str
    project: str
    revision: str
    message: str
    files: list[dict[str, Any]]
    size_bytes: int
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str


class DraftRelease(RequestBody):
    """How a draft of a model becomes a version."""

    base: str | None = Field(None, max_length=200, description="What an adapter was trained on, e.g. `qwen3@1`.")
    description: str | None = Field(None, max_length=10_000, description="Left out: the message of the last commit.")


class DatasetDraftRelease(RequestBody):
    """How a draft of a dataset becomes a version; what is left out is told from its columns, as in an import."""

    shape: str | None = None
    text: str | None = Field(None, description="The column that is asked.")
    label: str | None = Field(None, description="The column that answers.")
    group: str | None = Field(None, description="Rows with equal values here share a split.")
    splits: str | None = Field(None, description="train,validation,test", examples=["0.8,0.1,0.1"])

    def to_options(self) -> ImportOptions:
        """How the rows are read."""
        from finmaas_registry.dataset_import import ImportOptions  # pyarrow would slow down the start

        fractions = parse_fractions(self.splits) if self.splits else Fractions()
        return ImportOptions(shape=self.shape, text=self.text, label=self.label, group=self.group, fractions=fractions)


def show_draft(row: DraftRow) -> DraftView:
    """The row as the API shows it."""
    return DraftView(
        id=row.id,
        kind=row.kind,
        name=row.name,
        project=row.project.ref,
        revision=row.revision,
        message=row.message,
        files=row.files,
        size_bytes=sum(file["size"] for file in row.files),
        created_at=row.created_at,
        created_by=row.created_by,
        updated_at=row.updated_at,
        updated_by=row.updated_by,
    )


@router.get("", summary="List drafts")
def list_drafts(
    caller: CallerDep,
    session: SessionDep,
    kind: RepoKind | None = None,
    project: Annotated[str | None, Query(description="Only of this project, `tenant/project`.")] = None,
    limit: LimitParam = DEFAULT_LIMIT,
    cursor: CursorParam = None,
) -> Page[DraftView]:
    """The open drafts in the caller's sight, newest first."""
    query = drafts.select_drafts(session, caller, kind, project)
    return paginate(session, query, DraftRow.id, limit, cursor).view(show_draft)


@router.get("/{kind}/{tenant}/{project}/{name}", summary="Show a draft")
def get_draft(
    kind: RepoKind, tenant: str, project: str, name: str, caller: CallerDep, session: SessionDep
) -> DraftView:
    """With its files."""
    return show_draft(
        drafts.get_draft(session, caller, kind, get_project(session, caller, f"{tenant}/{project}"), name)
    )


@router.delete("/{kind}/{tenant}/{project}/{name}", status_code=204, summary="Discard a draft")
def discard_draft(
    kind: RepoKind, tenant: str, project: str, name: str, caller: CallerDep, session: SessionDep, deps: DepsDep
) -> None:
    """Its files are gone, but for those that a version has as well."""
    owner = get_project(session, caller, f"{tenant}/{project}")
    drafts.discard(session, caller, deps.clock.now(), drafts.get_draft(session, caller, kind, owner, name))


@router.post(
    "/model/{tenant}/{project}/{name}/release",
    status_code=201,
    summary="Release a draft of a model",
    response_model=ModelVersionView,
)
def release_draft(
    tenant: str,
    project: str,
    name: str,
    body: DraftRelease,
    caller: CallerDep,
    session: SessionDep,
    deps: DepsDep,
    once: OnceDep,
) -> Any:
    """Makes it the next version, checked as every version is. The draft is gone then."""

    checked = None if once.is_done(deps.sessions) else drafts.check_draft(deps, caller, f"{tenant}/{project}", name)

    def release() -> ModelVersionView:
        row = drafts.release_model(
            session,
            caller,
            deps.clock.now(),
            get_project(session, caller, f"{tenant}/{project}"),
            name,
            checked,
            body.base,
            body.description or "",
        )
        return show_model_version(row)

    return once.run(session, release)


@router.post("/dataset/{tenant}/{project}/{name}/release", status_code=201, summary="Release a draft of a dataset")
def release_dataset_draft(
    tenant: str,
    project: str,
    name: str,
    body: DatasetDraftRelease,
    response: Response,
    caller: CallerDep,
    deps: DepsDep,
) -> DatasetVersionView:
    """Imports its rows as the next version, with all reports. 200 when a version has the same rows already."""
    from finmaas_platform.services.dataset_drafts import release_dataset  # pyarrow would slow down the start

    row, is_new = release_dataset(deps, caller, f"{tenant}/{project}", name, body.to_options())
    response.status_code = 201 if is_new else 200
    return show_dataset_version(row)
