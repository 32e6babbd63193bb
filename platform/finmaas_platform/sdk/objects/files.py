"""Files of versions, and the drafts that gather them."""

from __future__ import annotations

from datetime import datetime

from finmaas_platform.sdk.objects.base import ApiObject


class FileEntry(ApiObject):
    """One file of a version, by its SHA-256."""

    path: str
    sha256: str
    size: int


class Draft(ApiObject):
    """The files that the next version of a model or dataset will have."""

    id: str
    kind: str
    name: str
    project: str
    revision: str
    message: str = ""
    files: tuple[FileEntry, ...] = ()
    size_bytes: int = 0
    updated_at: datetime
    updated_by: str = ""
