"""Lays a version out as a folder on a node, for engines that want files: whole, checked, or not at all.

Several processes may ask for the same folder at once: one fetches, the others wait for it. A killed one leaves
scratch behind that the next removes. The `.complete` marker holds the manifest's digest.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from finmaas_core.errors import Corrupt, StoreFull
from finmaas_registry.hashing import SideHasher
from finmaas_registry.manifest import FileEntry, Manifest, make_manifest

MARKER = ".complete"
FLUSH_BYTES = 64 << 20
Fetch = Callable[[str], Iterable[bytes]]
"""The bytes of a digest, in chunks."""


def materialise(files: Iterable[FileEntry], fetch: Fetch, folder: Path) -> Path:
    """Makes `folder` hold exactly these files and returns it; quick when it does already.

    Raises Corrupt when bytes do not match their digest, StoreFull when the disk is; then no folder is there.
    """
    manifest = make_manifest(files)
    if is_complete(folder, manifest):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.parent / f".{folder.name}.lock"):
        if not is_complete(folder, manifest):
            _build(manifest, fetch, folder)
    return folder


def is_complete(folder: Path, manifest: Manifest) -> bool:
    """Whether the folder holds this manifest whole."""
    try:
        return (folder / MARKER).read_text() == manifest.digest
    except FileNotFoundError:
        return False


def check_folder(manifest: Manifest, folder: Path) -> None:
    """Reads every file of a folder anew; Corrupt names the first whose bytes are not those of the manifest."""
    for file in manifest.files:
        try:
            with (folder / file.path).open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
        except FileNotFoundError:
            found = "nothing"
        if found != file.sha256:
            raise Corrupt(f"{folder / file.path} was changed on this disk; remove the folder, it is fetched anew")


def _build(manifest: Manifest, fetch: Fetch, folder: Path) -> None:
    """Runs under the folder's lock, so scratch of this name that is there belongs to nobody alive."""
    for left in folder.parent.glob(f".{folder.name}.scratch-*"):
        shutil.rmtree(left)
    scratch = folder.parent / f".{folder.name}.scratch-{secrets.token_hex(8)}"
    try:
        for file in manifest.files:
            _write(file, fetch(file.sha256), scratch / file.path)
        (scratch / MARKER).write_text(manifest.digest)
        if folder.exists():  # another manifest, or a folder that lost its marker
            folder.rename(scratch.with_name(f"{scratch.name}-old"))
        scratch.rename(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"no room is left for {folder} ({manifest.size_bytes} bytes); free some space") from error
        raise
    finally:
        for left in folder.parent.glob(f"{scratch.name}*"):
            shutil.rmtree(left, ignore_errors=True)


def _write(file: FileEntry, chunks: Iterable[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as out, SideHasher() as hasher, _Flusher(out.fileno()) as flusher:
        for chunk in chunks:
            hasher.update(chunk)
            out.write(chunk)
            flusher.wrote(len(chunk))
        out.flush()
        os.fsync(out.fileno())
        found = hasher.hexdigest()
    if found != file.sha256:
        raise Corrupt(f"{file.path} arrived with the digest {found}, not {file.sha256}; fetch it again")


class _Flusher:
    """Brings a file to the disk while the rest of it comes, so that little is left for the sync at its end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="flush")
        self._last: Future[None] | None = None
        self._waiting = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        if self._last is not None:
            self._last.result()  # a disk that failed says so once

    def wrote(self, count: int) -> None:
        """So many bytes more are with the system."""
        self._waiting += count
        if self._waiting >= FLUSH_BYTES and (self._last is None or self._last.done()):
            if self._last is not None:
                self._last.result()
            self._last, self._waiting = self._pool.submit(os.fdatasync, self._fd), 0


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Waits for the lock; the system frees it when its holder dies. The file stays: removing it splits the lock."""
    with path.open("w") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield
