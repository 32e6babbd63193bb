"""What a job makes on disk, as blobs of the store. Fetching is the registry's `materialise`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from finmaas_registry.manifest import FileEntry
from finmaas_registry.store import Stored, read_chunks


def describe_folder(folder: Path) -> tuple[FileEntry, ...]:
    """Every file below a folder with its digest and size, sorted by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(_describe(path, path.relative_to(folder).as_posix()) for path in paths)


def upload_folder(put: Callable[[Path], Stored], folder: Path) -> tuple[FileEntry, ...]:
    """Puts every file of a folder (`put` skips what the store has) and returns them all."""
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        stored = put(path)
        files.append(FileEntry(path.relative_to(folder).as_posix(), stored.digest, stored.size))
    return tuple(files)


def _describe(path: Path, name: str) -> FileEntry:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in read_chunks(file):
            digest.update(chunk)
        return FileEntry(name, digest.hexdigest(), file.tell())
