"""Which rows a version holds, told by keyed digests: answers "is this row in there" without reading the rows.

One blob a version: a header line, then sorted digests with the rows that bear them, then a digest of each row's whole
content. A digest is a block cipher's output over a hash of the value, so without the key nobody can try out texts
against the blob, and with the same key all versions can be asked and compared. Rows are numbered through the files of
the version: train, validation, test.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from finmaas_core.errors import Corrupt

U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
TEXT, ID, CONTENT = "text", "id", "content"
HEADER_BYTES = 512
_PAGE = 1024  # digests read at a time around the place where one should be
_DOMAINS = {TEXT: 1, ID: 2, CONTENT: 3}
ReadRange = Callable[[int, int], bytes]
"""The bytes of the blob from an offset on, so many."""


def derive_key(pepper: str, tenant_id: str) -> bytes:
    """The key of a tenant's indexes: what one tenant's blob says cannot be asked with another's key."""
    return hashlib.blake2b(
        tenant_id.encode(), key=pepper.encode()[:64], person=b"fm-row-index", digest_size=32
    ).digest()


def key_digests(values: U64, kind: str, key: bytes) -> U64:
    """The keyed digests of hashes of a kind (TEXT, ID or CONTENT)."""
    blocks = np.empty((len(values), 2), np.uint64)
    blocks[:, 0], blocks[:, 1] = values, _DOMAINS[kind]
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305  a pseudo-random function of single blocks
    sealed = np.frombuffer(cipher.update(blocks.tobytes()) + cipher.finalize(), np.uint64)
    return np.ascontiguousarray(sealed[::2])


def write_index(path: Path, key: bytes, text: U64, content: U64, ids: U64 | None) -> None:
    """Writes the index of rows whose hashes are given in the order of the version's files."""
    parts: dict[str, bytes] = {}
    for kind, values in ((TEXT, text), (ID, ids)):
        if values is not None:
            digests = key_digests(values, kind, key)
            order = np.argsort(digests, kind="stable")
            parts[kind], parts[f"{kind}_rows"] = digests[order].tobytes(), order.astype(np.uint32).tobytes()
    parts[CONTENT] = key_digests(content, CONTENT, key).tobytes()
    header: dict[str, Any] = {"rows": len(text), "parts": {}}
    at = HEADER_BYTES
    for name, data in parts.items():
        header["parts"][name] = at
        at += len(data)
    with path.open("wb") as out:
        out.write(json.dumps(header).encode().ljust(HEADER_BYTES))
        for data in parts.values():
            out.write(data)


@dataclass(frozen=True)
class RowIndex:
    """A stored index. It reads only what it needs."""

    read: ReadRange
    rows: int
    parts: dict[str, int]

    @classmethod
    def open(cls, read: ReadRange) -> RowIndex:
        """Raises Corrupt for what is no index."""
        try:
            header = json.loads(read(0, HEADER_BYTES))
            return cls(read, int(header["rows"]), dict(header["parts"]))
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(f"the row index cannot be read ({error}); import the version again") from error

    @property
    def has_ids(self) -> bool:
        return ID in self.parts

    def find(self, kind: str, digest: int) -> list[int]:
        """The rows with this digest, in order."""
        if kind not in self.parts or not self.rows:
            return []
        place = self._lower_bound(kind, digest)
        found: list[int] = []
        while place < self.rows:
            count = min(_PAGE, self.rows - place)
            equal = self._digests(kind, place, count) == np.uint64(digest)
            hits = count if equal.all() else int(np.argmin(equal))
            found.extend(self._numbers(kind, place, hits).tolist())
            place += hits
            if hits < count:
                break
        return sorted(found)

    def by_row(self, kind: str) -> U64:
        """Each row's digest, in the order of the files."""
        if kind == CONTENT:
            return self._digests(CONTENT, 0, self.rows)
        digests = np.empty(self.rows, np.uint64)
        digests[self._numbers(kind, 0, self.rows)] = self._digests(kind, 0, self.rows)
        return digests

    def _lower_bound(self, kind: str, digest: int) -> int:
        """The first place that is not below; digests are spread evenly, so a guess comes close."""
        low, high = 0, self.rows
        while low < high:
            guess = (
                min(max(int(digest / 2**64 * self.rows), low), high - 1)
                if high - low == self.rows
                else (low + high) // 2
            )
            first = max(low, guess - _PAGE // 2)
            page = self._digests(kind, first, min(_PAGE, high - first))
            place = int(np.searchsorted(page, np.uint64(digest)))
            if 0 < place < len(page) or (place == 0 and first == low) or (place == len(page) and first + place == high):
                return first + place
            low, high = (first + place, high) if place else (low, first)
        return low

    def _digests(self, kind: str, place: int, count: int) -> U64:
        return np.frombuffer(self.read(self.parts[kind] + 8 * place, 8 * count), np.uint64)

    def _numbers(self, kind: str, place: int, count: int) -> U32:
        return np.frombuffer(self.read(self.parts[f"{kind}_rows"] + 4 * place, 4 * count), np.uint32)
