"""Folders to blobs and back: what a job uploads, and what it fetches, checked by digest on arrival.

Not a cache: folders that several jobs share are laid out by the registry's `materialise`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from finmaas_core.errors import Corrupt, Unavailable
from finmaas_registry.manifest import FileEntry, check_path

_TRIES = 8
_CHUNK_BYTES = 1 << 20


class BlobPort(Protocol):
    """What this module asks of the control plane; `JobClient` is it."""

    def has_blob(self, sha256: str) -> bool: ...

    def put_blob(self, sha256: str, path: Path) -> None: ...

    def get_blob(self, sha256: str, offset: int = 0) -> Iterator[bytes]: ...


def describe_folder(folder: Path) -> tuple[FileEntry, ...]:
    """Every file below a folder with its digest and size, sorted by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(_describe(path, path.relative_to(folder).as_posix()) for path in paths)


def upload_folder(store: BlobPort, folder: Path) -> tuple[FileEntry, ...]:
    """Puts every file of a folder that the store lacks, and returns them all."""
    files = describe_folder(folder)
    for file in files:
        if not store.has_blob(file.sha256):
            store.put_blob(file.sha256, folder / file.path)
    return files


def download_files(
    store: BlobPort, files: Iterable[FileEntry], folder: Path, wanted: Callable[[str], bool] = lambda _: True
) -> None:
    """Brings files into a folder; one that is there with the right digest stays. Raises Corrupt, Unavailable."""
    for file in files:
        if wanted(file.path):
            _download(store, file, folder / check_path(file.path))


def _download(store: BlobPort, file: FileEntry, path: Path) -> None:
    if path.is_file() and path.stat().st_size == file.size and _describe(path, file.path) == file:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    _stream_to(store, file, scratch)
    if _describe(scratch, file.path) != file:
        scratch.unlink()
        raise Corrupt(f"{file.path} arrived with another digest than {file.sha256[:12]}…; the blob store is damaged")
    scratch.replace(path)


def _stream_to(store: BlobPort, file: FileEntry, scratch: Path) -> None:
    """Writes the blob, going on where a broken stream ended."""
    for attempt in range(_TRIES):
        try:
            with scratch.open("ab" if attempt else "wb") as out:
                for chunk in store.get_blob(file.sha256, out.tell()):
                    out.write(chunk)
        except Unavailable:
            if attempt == _TRIES - 1:
                raise
            time.sleep(min(5.0, 0.2 * 2**attempt))  # the control plane may be restarting
        else:
            return


def _describe(path: Path, name: str) -> FileEntry:
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(name, digest.hexdigest(), size)
