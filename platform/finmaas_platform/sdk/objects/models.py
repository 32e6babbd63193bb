"""Models and their versions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from finmaas_platform.sdk.objects.base import ApiObject
from finmaas_platform.sdk.objects.files import FileEntry


class Lineage(ApiObject):
    """Where a model version came from."""

    job_id: str | None = None
    dataset_version_id: str | None = None
    base_version_id: str | None = None


class Model(ApiObject):
    """A named sequence of model versions."""

    id: str
    name: str
    project: str
    latest_version: int = 0
    latest_state: str | None = None
    aliases: dict[str, int] = Field(default_factory=dict)
    created_at: datetime


class ModelVersion(ApiObject):
    """One immutable artefact: full weights, or an adapter on a base."""

    id: str
    model: str
    version: int
    ref: str
    kind: str
    state: str = ""
    revision: int = 1
    author_id: str | None = None
    files: tuple[FileEntry, ...] = ()
    size_bytes: int = 0
    digest: str = ""
    description: str = ""
    metrics: dict[str, Any] = Field(default_factory=dict)
    lineage: Lineage = Lineage()
    locked_until: datetime | None = None
    created_at: datetime
    created_by: str = ""


class Origin(ApiObject):
    """Where a version was before it came here; `verified_by` is the trusted key that had signed it there."""

    source: str
    document: dict[str, Any]
    imported_at: datetime
    imported_by: str
    verified_by: str | None = None


class ModelCard(ApiObject):
    """A card as Markdown; edition 0 is the generated one."""

    version: str
    language: str
    edition: int
    text: str
    at: datetime | None = None
    by: str | None = None
