"""Blobs: fetching the files of a version, each checked against its digest."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from finmaas_core.errors import Corrupt
from finmaas_platform.sdk.objects import FileEntry
from finmaas_platform.sdk.transport import PATIENCE_S, Transport

CHUNK_BYTES = 1 << 20


def download_files(
    transport: Transport,
    files: Sequence[FileEntry],
    folder: Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Fetches files into a folder and returns it; those that are there, whole, stay. Corrupt for wrong bytes."""
    total = sum(file.size for file in files)
    done = 0
    for file in files:
        target = folder / file.path
        if not target.is_file() or target.stat().st_size != file.size or _digest_of(target) != file.sha256:
            _download(transport, file, target)
        done += file.size
        if on_progress is not None:
            on_progress(done, total)
    return folder


def _download(transport: Transport, file: FileEntry, target: Path) -> None:
    """One file: to a scratch name, taken up where it broke, checked, then renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as out:
            broken_since: float | None = None
            while out.tell() < file.size:
                try:
                    for chunk in transport.stream_bytes(f"/blobs/{file.sha256}", offset=out.tell()):
                        out.write(chunk)
                        broken_since = None
                except httpx.TransportError as error:
                    broken_since = broken_since or time.monotonic()
                    if time.monotonic() - broken_since > PATIENCE_S:
                        raise transport.explain(error) from error
                    time.sleep(0.5)  # the control plane restarts: there is nothing to wait on
        if _digest_of(scratch) != file.sha256:
            raise Corrupt(f"{file.path} came with other bytes than its digest says; fetch it again", path=file.path)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
