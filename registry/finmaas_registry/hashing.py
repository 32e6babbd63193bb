"""SHA-256 beside other work: hashlib lets go of the interpreter's lock, so a thread hashes while another writes."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

BESIDE_BYTES = 128 << 10
"""Smaller chunks are hashed at once: handing them over would cost more."""


class SideHasher:
    """Feeds one or more digests in order, one chunk behind the caller. Close it, or use it as a context."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._pool: ThreadPoolExecutor | None = None
        self._last: Future[None] | None = None
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def update(self, chunk: bytes | memoryview) -> None:
        """Takes a chunk; it must not change until the next call returns."""
        self.size += len(chunk)
        self._wait()
        if len(chunk) < BESIDE_BYTES:
            self._sha256.update(chunk)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="sha256")
        self._last = self._pool.submit(self._sha256.update, chunk)

    def hexdigest(self) -> str:
        """The digest of everything so far."""
        self._wait()
        return self._sha256.hexdigest()

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()
            self._last = None
