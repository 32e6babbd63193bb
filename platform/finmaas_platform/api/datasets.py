"""Routes of datasets: importing a file as a version, and looking at versions and their rows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

import anyio
import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.api.uploads import Uploads
from finmaas_platform.db.base import read_unit
from finmaas_platform.db.datasets import DatasetRow, DatasetVersionRow
from finmaas_platform.domain.dataset_versions import count_expired
from finmaas_platform.domain.principals import Role
from finmaas_platform.services import datasets
from finmaas_platform.services.dataset_imports import import_file, open_import
from finmaas_platform.services.projects import get_project
from finmaas_registry.splits import Fractions, parse_fractions

router = APIRouter(prefix="/datasets", tags=["datasets"])
_uploads = Uploads()


class DatasetView(BaseModel):
    """A named sequence of versions."""

    id: str
    name: str
    project: str
    latest_version: int
    created_at: datetime
    created_by: str


class DatasetVersionView(BaseModel):
    """One immutable snapshot of rows. `schema` lists its columns, `stats` has figures and warnings."""

    id: str
    dataset: str
    project: str
    version: int
    ref: str
    shape: str
    rows: int
    splits: dict[str, int]
    columns: list[dict[str, Any]] = Field(serialization_alias="schema")
    stats: dict[str, Any]
    files: list[dict[str, Any]]
    size_bytes: int
    digest: str
    source: str
    created_at: datetime
    created_by: str
    state: str
    released_at: datetime | None
    released_by: str | None
    locked_until: datetime | None = Field(description="Until when its bytes cannot be removed from the bucket.")


class DatasetReportView(BaseModel):
    """What an import found out: near-duplicates, leakage between splits, personal data, consent and retention.

    `expired` counts the rows whose last day is before today; they are kept, and no job reads them.
    """

    ref: str
    rows: int
    splits: dict[str, int]
    expired: int
    report: dict[str, Any]


class RowsView(BaseModel):
    """Some rows of a split."""

    items: list[dict[str, Any]]


def show_dataset(row: DatasetRow) -> DatasetView:
    """The row as the API shows it."""
    return DatasetView(
        id=row.id,
        name=row.name,
        project=row.project.ref,
        latest_version=row.latest_version,
        created_at=row.created_at,
        created_by=row.created_by,
    )


def show_dataset_version(row: DatasetVersionRow) -> DatasetVersionView:
    """The row as the API shows it."""
    return DatasetVersionView(
        id=row.id,
        dataset=row.dataset.name,
        project=row.dataset.project.ref,
        version=row.number,
        ref=row.ref,
        shape=row.shape,
        rows=row.rows,
        splits=row.splits,
        columns=row.schema,
        stats=row.stats,
        files=row.files,
        size_bytes=row.size_bytes,
        digest=row.digest,
        source=row.source,
        created_at=row.created_at,
        created_by=row.created_by,
        state=row.state,
        released_at=row.released_at,
        released_by=row.released_by,
        locked_until=row.locked_until,
    )


@router.get("", summary="List datasets")
def list_datasets(
    caller: CallerDep,
    session: SessionDep,
    project: Annotated[str | None, Query(description="Only of this project, `tenant/project`.")] = None,
    limit: LimitParam = DEFAULT_LIMIT,
    cursor: CursorParam = None,
) -> Page[DatasetView]:
    """The datasets in the caller's sight, newest first."""
    query = datasets.select_datasets(session, caller, project)
    return paginate(session, query, DatasetRow.id, limit, cursor).view(show_dataset)


@router.get("/{tenant}/{project}/{name}", summary="Show a dataset")
def get_dataset(tenant: str, project: str, name: str, caller: CallerDep, session: SessionDep) -> DatasetView:
    """By name; an unknown one is answered with names that are near."""
    owner = get_project(session, caller, f"{tenant}/{project}")
    return show_dataset(datasets.get_dataset(session, caller, owner, name))


@router.get("/{tenant}/{project}/{name}/versions", summary="List versions of a dataset")
def list_dataset_versions(
    tenant: str,
    project: str,
    name: str,
    caller: CallerDep,
    session: SessionDep,
    limit: LimitParam = DEFAULT_LIMIT,
    cursor: CursorParam = None,
) -> Page[DatasetVersionView]:
    """Newest first."""
    owner = get_project(session, caller, f"{tenant}/{project}")
    query = datasets.select_versions(caller, datasets.get_dataset(session, caller, owner, name))
    return paginate(session, query, DatasetVersionRow.number, limit, cursor).view(show_dataset_version)


@router.get("/{tenant}/{project}/{name}/versions/{number}", summary="Show a version of a dataset")
def get_dataset_version(
    tenant: str, project: str, name: str, number: int, caller: CallerDep, session: SessionDep
) -> DatasetVersionView:
    """With its schema, splits and statistics."""
    owner = get_project(session, caller, f"{tenant}/{project}")
    return show_dataset_version(datasets.resolve_dataset_version(session, caller, owner, f"{name}@{number}"))


@router.get("/{tenant}/{project}/{name}/versions/{number}/report", summary="Report on a version of a dataset")
def get_dataset_report(
    tenant: str, project: str, name: str, number: int, caller: CallerDep, deps: DepsDep, session: SessionDep
) -> DatasetReportView:
    """Near-duplicates and leakage between splits, personal data by column (examples masked), consent and retention."""
    owner = get_project(session, caller, f"{tenant}/{project}")
    row = datasets.resolve_dataset_version(session, caller, owner, f"{name}@{number}")
    report = datasets.get_report(session, caller, row).report
    expired = count_expired(report, deps.clock.now().date())
    return DatasetReportView(ref=row.ref, rows=row.rows, splits=row.splits, expired=expired, report=report)


@router.get("/{tenant}/{project}/{name}/versions/{number}/rows", summary="Look at rows")
def get_dataset_rows(
    tenant: str,
    project: str,
    name: str,
    number: int,
    caller: CallerDep,
    deps: DepsDep,
    split: Literal["train", "validation", "test"] = "train",
    limit: Annotated[int, Query(ge=1, le=500)] = 20,
) -> RowsView:
    """The first rows of a split, in the order of the imported file."""
    with read_unit(deps.sessions) as session:
        owner = get_project(session, caller, f"{tenant}/{project}")
        row = datasets.resolve_dataset_version(session, caller, owner, f"{name}@{number}")
    datasets.check_readable(row)
    digest = next(file["sha256"] for file in row.files if file["path"] == f"data/{split}.parquet")
    from finmaas_registry.preview import read_rows  # pyarrow would slow down the start

    return RowsView(items=read_rows(deps.store, digest, limit))


@router.post("/{tenant}/{project}/{name}/versions", status_code=201, summary="Import a file as a version")
async def import_dataset_version(
    tenant: str,
    project: str,
    name: str,
    request: Request,
    response: Response,
    caller: CallerDep,
    deps: DepsDep,
    filename: Annotated[str, Query(max_length=255, description="Its ending tells the format.")],
    shape: Annotated[str | None, Query(description="Told from the columns when absent.")] = None,
    text: Annotated[str | None, Query(description="The column that is asked.")] = None,
    label: Annotated[str | None, Query(description="The column that answers.")] = None,
    group: Annotated[str | None, Query(description="Rows with equal values here share a split.")] = None,
    splits: Annotated[str | None, Query(description="train,validation,test", examples=["0.8,0.1,0.1"])] = None,
    id_column: Annotated[str | None, Query(description="The column with the row's own id.")] = None,
    consent: Annotated[str | None, Query(description="The column with consent: yes, no, or purposes.")] = None,
    retain_until: Annotated[str | None, Query(description="The column with the last day of use.")] = None,
    purpose: Annotated[str, Query(description="What consent is needed for.")] = "training",
    without_consent: Annotated[
        Literal["refuse", "drop"], Query(description="What happens to rows without it.")
    ] = "refuse",
) -> DatasetVersionView:
    """The body is the file: CSV, TSV, JSONL, XLSX or Parquet. 200 when a version has the same content already."""
    caller.require(Role.TENANT_ADMIN, Role.ML_ENGINEER, Role.ANNOTATOR)
    fractions = parse_fractions(splits) if splits else Fractions()
    from finmaas_registry.dataset_import import ImportOptions  # as above
    from finmaas_registry.tags import Tags

    tags = Tags(consent, retain_until, id_column, purpose, without_consent)
    options = ImportOptions(shape=shape, text=text, label=label, group=group, fractions=fractions, tags=tags)
    target = await anyio.to_thread.run_sync(partial(open_import, deps, caller, f"{tenant}/{project}", name, filename))

    def take(chunks: Iterator[bytes]) -> tuple[DatasetVersionView, bool]:
        row, is_new = import_file(deps, caller, target, chunks, options)
        return show_dataset_version(row), is_new

    view, is_new = await _uploads.run(request, deps.settings.max_dataset_bytes, take)
    response.status_code = 201 if is_new else 200
    return view
