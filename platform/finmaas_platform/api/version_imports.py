"""Routes for versions that travel: the document of one that is exported, and registering one that was carried here."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from finmaas_core.errors import NotFound
from finmaas_platform.api.datasets import DatasetVersionView, show_dataset_version
from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.drafts import DatasetDraftRelease
from finmaas_platform.api.models import FileBody, ModelVersionView, show_model_version
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.domain.principals import Role
from finmaas_platform.services import datasets, models
from finmaas_platform.services.model_checks import check_model
from finmaas_platform.services.projects import get_project
from finmaas_platform.services.signatures import find_trust_root
from finmaas_platform.services.version_imports import describe_dataset, describe_model, find_origin, import_model
from finmaas_registry.manifest import MAX_FILES, FileEntry
from finmaas_registry.signing import verify_document
from finmaas_registry.splits import Fractions, parse_fractions

if TYPE_CHECKING:
    from finmaas_registry.dataset_import import ImportOptions

router = APIRouter(tags=["versions that travel"])


class ModelImport(RequestBody):
    """A version whose files were put before, and what the place it comes from says of it."""

    source: Literal["archive", "hub"]
    kind: Literal["full", "adapter", "merged"] = "full"
    files: list[FileBody] = Field(min_length=1, max_length=MAX_FILES)
    document: dict[str, Any] = Field(description="Kept as it is; its `digest` must be that of the files.")
    base: str | None = Field(None, max_length=200, description="Left out: the version here with the base's files.")
    description: str | None = Field(None, max_length=10_000)


class DatasetImport(RequestBody):
    """The files of a dataset version, put before, and what the site it comes from says of it."""

    files: list[FileBody] = Field(min_length=1, max_length=MAX_FILES)
    document: dict[str, Any] = Field(description="Kept as it is; its `digest` must be that of the files.")
    splits: str | None = Field(None, description="train,validation,test, as they were there.")


class RowFilesImport(DatasetDraftRelease):
    """Files of rows that were put before: one, or shards of Parquet; and how they are read, as in any import."""

    files: list[FileBody] = Field(min_length=1, max_length=MAX_FILES)
    source: str | None = Field(None, max_length=500, description="Where they come from; else the file's name is told.")
    id_column: str | None = Field(None, description="The column with the row's own id.")
    consent: str | None = Field(None, description="The column with consent: yes, no, or purposes.")
    retain_until: str | None = Field(None, description="The column with the last day of use.")
    purpose: str = Field("training", description="What consent is needed for.")
    without_consent: Literal["refuse", "drop"] = Field("refuse", description="What happens to rows without it.")

    def to_options(self) -> ImportOptions:
        from finmaas_registry.tags import Tags

        tags = Tags(self.consent, self.retain_until, self.id_column, self.purpose, self.without_consent)
        return replace(super().to_options(), tags=tags)


class OriginView(BaseModel):
    """Where a version was before. Its files were checked here, its signature where `verified_by` names a key."""

    source: str
    document: dict[str, Any]
    imported_at: datetime
    imported_by: str
    verified_by: str | None = Field(
        description="The trusted key that signed it there; null where it bore no signature, or no trust root is set."
    )


@router.get("/models/{tenant}/{project}/{name}/versions/{number}/export", summary="Describe a version for export")
def export_model_version(
    tenant: str, project: str, name: str, number: int, caller: CallerDep, session: SessionDep, deps: DepsDep
) -> dict[str, Any]:
    """Its files, lineage, signature and origin; the files themselves are blobs."""
    owner = get_project(session, caller, f"{tenant}/{project}")
    row = models.resolve_model_version(session, caller, owner, f"{name}@{number}")
    return describe_model(session, caller, deps.clock.now(), row)


@router.get("/datasets/{tenant}/{project}/{name}/versions/{number}/export", summary="Describe a version for export")
def export_dataset_version(
    tenant: str, project: str, name: str, number: int, caller: CallerDep, session: SessionDep, deps: DepsDep
) -> dict[str, Any]:
    """Its files, schema and statistics; the files themselves are blobs."""
    owner = get_project(session, caller, f"{tenant}/{project}")
    row = datasets.resolve_dataset_version(session, caller, owner, f"{name}@{number}")
    return describe_dataset(session, caller, deps.clock.now(), row)


@router.get("/models/{tenant}/{project}/{name}/versions/{number}/origin", summary="Show where a version came from")
def get_model_origin(
    tenant: str, project: str, name: str, number: int, caller: CallerDep, session: SessionDep
) -> OriginView:
    """404 for a version that was made here."""
    owner = get_project(session, caller, f"{tenant}/{project}")
    row = models.resolve_model_version(session, caller, owner, f"{name}@{number}")
    found = find_origin(session, caller, row.id)
    if found is None:
        raise NotFound(f"{row.ref} was made here, or imported from a folder; it has no other origin")
    return OriginView(
        source=found.source,
        document=found.document,
        imported_at=found.created_at,
        imported_by=found.created_by,
        verified_by=found.verified_by,
    )


@router.post("/models/{tenant}/{project}/{name}/imports", status_code=201, summary="Import a version from elsewhere")
def import_carried_model(
    tenant: str,
    project: str,
    name: str,
    body: ModelImport,
    response: Response,
    caller: CallerDep,
    session: SessionDep,
    deps: DepsDep,
) -> ModelVersionView:
    """A candidate, checked as every version is. Safe to repeat: 200 when a version has the same files already.

    Where a trust root is configured, a signature in `document` must hold under it; without one nothing is refused.
    """
    caller.require(Role.TENANT_ADMIN, Role.ML_ENGINEER)
    files = [FileEntry(file.path, file.sha256, file.size) for file in body.files]
    trust = None if deps.settings.trust_root is None else find_trust_root(deps.settings)
    verified_by = None if trust is None else verify_document(body.document, files, trust)
    checked = check_model(deps, caller, body.kind, files, f"{tenant}/{project}")
    owner = get_project(session, caller, f"{tenant}/{project}")
    known = models.find_latest_number(session, caller, owner, name)
    row = import_model(
        session,
        caller,
        deps.clock.now(),
        owner,
        name,
        body.source,
        checked,
        body.document,
        body.base,
        body.description or "",
        verified_by,
    )
    response.status_code = 201 if row.number > known else 200
    return show_model_version(row)


@router.post("/datasets/{tenant}/{project}/{name}/imports", status_code=201, summary="Import a version from elsewhere")
def import_carried_dataset(
    tenant: str,
    project: str,
    name: str,
    body: DatasetImport,
    response: Response,
    caller: CallerDep,
    deps: DepsDep,
) -> DatasetVersionView:
    """Its rows go through the import once more, with all reports. Safe to repeat: equal rows are the same version."""
    from finmaas_platform.services.dataset_archives import import_dataset_archive  # pyarrow would slow down the start

    caller.require(Role.TENANT_ADMIN, Role.ML_ENGINEER)
    files = [FileEntry(file.path, file.sha256, file.size) for file in body.files]
    fractions = parse_fractions(body.splits) if body.splits else Fractions()
    row, is_new = import_dataset_archive(deps, caller, f"{tenant}/{project}", name, files, body.document, fractions)
    response.status_code = 201 if is_new else 200
    return show_dataset_version(row)


@router.post(
    "/datasets/{tenant}/{project}/{name}/imports/rows", status_code=201, summary="Import files of rows that were put"
)
def import_row_files(
    tenant: str, project: str, name: str, body: RowFilesImport, response: Response, caller: CallerDep, deps: DepsDep
) -> DatasetVersionView:
    """For large files: put them as blobs, which can be taken up again, then import. 200 for rows that are there."""
    from finmaas_platform.services.dataset_drafts import import_put_files  # pyarrow would slow down the start

    files = [FileEntry(file.path, file.sha256, file.size) for file in body.files]
    row, is_new = import_put_files(deps, caller, f"{tenant}/{project}", name, files, body.to_options(), body.source)
    response.status_code = 201 if is_new else 200
    return show_dataset_version(row)
