"""Datasets, their versions, and what is known of single rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from finmaas_platform.sdk.objects.base import ApiObject
from finmaas_platform.sdk.objects.files import FileEntry


class Dataset(ApiObject):
    """A named sequence of dataset versions."""

    id: str
    name: str
    project: str
    latest_version: int = 0
    created_at: datetime


class DatasetVersion(ApiObject):
    """One immutable snapshot of rows; `splits` counts rows by split."""

    id: str
    dataset: str
    version: int
    ref: str
    shape: str
    rows: int
    splits: dict[str, int] = Field(default_factory=dict)
    columns: Any = Field(default=None, alias="schema")
    stats: dict[str, Any] = Field(default_factory=dict)
    files: tuple[FileEntry, ...] = ()
    size_bytes: int = 0
    digest: str = ""
    source: str = ""
    created_at: datetime
    created_by: str = ""
    state: str = "draft"
    released_at: datetime | None = None
    released_by: str | None = None
    locked_until: datetime | None = None


class DatasetReport(ApiObject):
    """What an import found out about a version; `expired` rows are kept, and no job reads them."""

    ref: str
    rows: int
    splits: dict[str, int] = Field(default_factory=dict)
    expired: int = 0
    report: dict[str, Any] = Field(default_factory=dict)


class DatasetDiff(ApiObject):
    """What changed between two versions: `counts` of added, removed, changed, moved and same rows, and samples."""

    before: str
    after: str
    by: str
    columns: Any = Field(default=None, alias="schema")
    counts: dict[str, int]
    added: tuple[dict[str, Any], ...] = ()
    removed: tuple[dict[str, Any], ...] = ()
    changed: tuple[dict[str, Any], ...] = ()


class RowTrace(ApiObject):
    """Versions that hold a row, jobs that read these, models that came of it, endpoints that serve those."""

    versions: tuple[dict[str, Any], ...] = ()
    jobs: tuple[dict[str, Any], ...] = ()
    models: tuple[dict[str, Any], ...] = ()
    endpoints: tuple[dict[str, Any], ...] = ()


class DeletionRequest(ApiObject):
    """A request that a row be forgotten; `retrain` names the models that learned from it."""

    id: str
    kind: str
    digest: str
    reason: str
    state: str
    found: RowTrace
    made: tuple[dict[str, Any], ...] = ()
    retrain: tuple[str, ...] = ()
    created_at: datetime
    created_by: str
    approved_at: datetime | None = None
    approved_by: str | None = None
    purged_at: datetime | None = None
