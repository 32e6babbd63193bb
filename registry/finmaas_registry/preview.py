"""A look at the first rows of a stored Parquet file, as JSON values; reads only the parts of the blob it needs."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow.parquet as pq

from finmaas_registry.store import BlobStore

MAX_ANSWER_CHARS = 4 << 20
_BATCH_ROWS = 50
Row = dict[str, Any]


def read_rows(store: BlobStore, digest: str, limit: int) -> list[Row]:
    """The first `limit` rows; fewer when they are so large that an answer would grow past MAX_ANSWER_CHARS."""
    found: list[Row] = []
    chars = 0
    with pq.ParquetFile(BlobFile(store, digest)) as file:
        for batch in file.iter_batches(batch_size=min(limit, _BATCH_ROWS)):
            for row in batch.to_pylist():
                plain = {key: _plain(value) for key, value in row.items()}
                chars += len(json.dumps(plain))
                if found and (len(found) >= limit or chars > MAX_ANSWER_CHARS):
                    return found
                found.append(plain)
    return found[:limit]


def read_rows_at(store: BlobStore, digest: str, places: Sequence[int]) -> list[Row]:
    """The rows at some places of a stored file, counted from 0, in their order."""
    found: dict[int, Row] = {}
    with pq.ParquetFile(BlobFile(store, digest)) as file:
        first = 0
        for group in range(file.metadata.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            wanted = [place - first for place in places if first <= place < first + size]
            if wanted:
                for place, row in zip(wanted, file.read_row_group(group).take(wanted).to_pylist(), strict=True):
                    found[first + place] = {key: _plain(value) for key, value in row.items()}
            first += size
    return [found[place] for place in places]


class BlobFile(io.RawIOBase):
    """A blob as a file that can be read from anywhere; each jump opens it anew at that place."""

    def __init__(self, store: BlobStore, digest: str) -> None:
        super().__init__()
        self._store = store
        self._digest = digest
        self._size = store.stat(digest) or 0
        self._at = 0
        self._rest: Iterator[bytes] | None = None
        self._held = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if start + offset != self._at:
            self._at, self._rest, self._held = start + offset, None, b""
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._size:
            return 0
        if self._rest is None:
            self._rest = self._store.open(self._digest, self._at)
        if not self._held:
            self._held = next(self._rest, b"")
        part = self._held[: len(buffer)]
        buffer[: len(part)] = part
        self._held = self._held[len(part) :]
        self._at += len(part)
        return len(part)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
