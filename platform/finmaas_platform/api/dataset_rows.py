"""Routes about rows across versions: release, diff, trace, and requests that a row be forgotten."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from finmaas_platform.api.datasets import DatasetVersionView, show_dataset_version
from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.db.base import read_unit
from finmaas_platform.db.datasets import DeletionRequestRow
from finmaas_platform.services import datasets, deletion_requests
from finmaas_platform.services.dataset_rows import MAX_SAMPLE, RowQuery, compare_versions, find_row, trace
from finmaas_platform.services.locks import lock_days
from finmaas_platform.services.projects import get_project

router = APIRouter(prefix="/datasets", tags=["datasets"])
trace_router = APIRouter(prefix="/dataset-rows", tags=["datasets"])
requests_router = APIRouter(prefix="/deletion-requests", tags=["datasets"])
MAX_TEXT_CHARS = 1 << 20


class ReleaseRequest(RequestBody):
    """What of the report is accepted, by name."""

    accept: list[Literal["privacy", "leakage", "expired"]] = Field(default_factory=list)


class DiffView(BaseModel):
    """What changed from `before` to `after`: counts, and some rows of each kind. Rows are the same `by` id or text."""

    before: str
    after: str
    by: str
    columns: dict[str, list[Any]] = Field(serialization_alias="schema")
    counts: dict[str, int]
    added: list[dict[str, Any]]
    removed: list[dict[str, Any]]
    changed: list[dict[str, Any]]


class RowRequest(RequestBody):
    """A row, by its question as it was imported, or by its own id."""

    text: str | None = Field(None, max_length=MAX_TEXT_CHARS)
    row_id: str | None = Field(None, max_length=1000)


class ForgetRequest(RowRequest):
    """A row to be forgotten, and why."""

    reason: str = Field(min_length=3, max_length=2000)


class TraceView(BaseModel):
    """Which versions hold a row, which jobs read these, which models came of it, which endpoints serve those."""

    versions: list[dict[str, Any]]
    jobs: list[dict[str, Any]]
    models: list[dict[str, Any]]
    endpoints: list[dict[str, Any]]


class DeletionRequestView(BaseModel):
    """A request that a row be forgotten. `found` is what held it then, `made` the versions without it."""

    id: str
    kind: str
    digest: str
    reason: str
    state: str
    found: TraceView
    made: list[dict[str, Any]]
    retrain: list[str]
    created_at: datetime
    created_by: str
    approved_at: datetime | None
    approved_by: str | None
    purged_at: datetime | None


def show_request(row: DeletionRequestRow) -> DeletionRequestView:
    """The row as the API shows it."""
    return DeletionRequestView(
        id=row.id,
        kind=row.kind,
        digest=row.digest,
        reason=row.reason,
        state=row.state,
        found=TraceView(**row.found),
        made=row.made,
        retrain=[model["ref"] for model in row.found["models"]],
        created_at=row.created_at,
        created_by=row.created_by,
        approved_at=row.approved_at,
        approved_by=row.approved_by,
        purged_at=row.purged_at,
    )


@router.post("/{tenant}/{project}/{name}/versions/{number}/release", summary="Release a version of a dataset")
def release_dataset_version(
    tenant: str,
    project: str,
    name: str,
    number: int,
    body: ReleaseRequest,
    caller: CallerDep,
    deps: DepsDep,
    session: SessionDep,
) -> DatasetVersionView:
    """Draft becomes released. 409 names what its report holds against it: personal data, leakage, expired rows."""
    owner = get_project(session, caller, f"{tenant}/{project}")
    row = datasets.resolve_dataset_version(session, caller, owner, f"{name}@{number}")
    accepted = [str(one) for one in body.accept]
    days = lock_days(deps, "dataset")
    return show_dataset_version(datasets.release_version(session, caller, deps.clock.now(), row, accepted, days))


@router.get("/{tenant}/{project}/{name}/versions/{number}/diff", summary="Compare with another version")
def diff_dataset_versions(
    tenant: str,
    project: str,
    name: str,
    number: int,
    caller: CallerDep,
    deps: DepsDep,
    to: Annotated[str, Query(description="The later version: name@2, or tenant/project/name@2.")],
    sample: Annotated[int, Query(ge=0, le=MAX_SAMPLE, description="Rows of each kind to show.")] = 3,
) -> DiffView:
    """Rows added, removed, changed and moved to another split, and the schema. Copies count."""
    with read_unit(deps.sessions) as session:
        owner = get_project(session, caller, f"{tenant}/{project}")
        old = datasets.resolve_dataset_version(session, caller, owner, f"{name}@{number}")
        new = datasets.resolve_dataset_version(session, caller, owner, to)
        for version in (old, new):
            datasets.check_readable(version)
        reports = [datasets.get_report(session, caller, version) for version in (old, new)]
    found = compare_versions(deps, (old, reports[0]), (new, reports[1]), sample)
    return DiffView(columns=found.pop("schema"), **found)


@trace_router.post("/trace", summary="Find out what learned from a row")
def trace_row(body: RowRequest, caller: CallerDep, deps: DepsDep, session: SessionDep) -> TraceView:
    """By the keyed digests of row indexes: no row is read. All versions in the caller's sight are asked."""
    query = RowQuery.of(body.text, body.row_id)
    found = find_row(deps, caller, query)
    return TraceView(**trace(session, caller, found))


@requests_router.post("", status_code=201, summary="Ask that a row be forgotten")
def create_deletion_request(body: ForgetRequest, caller: CallerDep, deps: DepsDep) -> DeletionRequestView:
    """Records the request, makes new versions without the row, and says which models must be retrained."""
    query = RowQuery.of(body.text, body.row_id)
    return show_request(deletion_requests.forget_row(deps, caller, query, body.reason))


@requests_router.get("", summary="List deletion requests")
def list_deletion_requests(
    caller: CallerDep, session: SessionDep, limit: LimitParam = DEFAULT_LIMIT, cursor: CursorParam = None
) -> Page[DeletionRequestView]:
    """Newest first."""
    query = deletion_requests.select_requests(caller)
    return paginate(session, query, DeletionRequestRow.id, limit, cursor).view(show_request)


@requests_router.get("/{request_id}", summary="Show a deletion request")
def get_deletion_request(request_id: str, caller: CallerDep, session: SessionDep) -> DeletionRequestView:
    """With what held the row, and the versions without it."""
    return show_request(deletion_requests.get_request(session, caller, request_id))


@requests_router.post("/{request_id}/approve", summary="Approve the purge")
def approve_deletion_request(
    request_id: str, caller: CallerDep, deps: DepsDep, session: SessionDep
) -> DeletionRequestView:
    """By somebody else than who asked."""
    return show_request(deletion_requests.approve_request(session, deps, caller, request_id))


@requests_router.post("/{request_id}/purge", summary="Purge the versions that hold the row")
def purge_deletion_request(
    request_id: str, caller: CallerDep, deps: DepsDep, session: SessionDep
) -> DeletionRequestView:
    """Their rows go out of the registry, their records stay. Needs the approval."""
    return show_request(deletion_requests.purge_request(session, deps, caller, request_id))
