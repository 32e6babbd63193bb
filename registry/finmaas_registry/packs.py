"""Many small blobs as one body: for each its SHA-256 (32 bytes), its size (4 bytes, little-endian) and its bytes.

A request a file costs more than the file where files are small; a pack carries hundreds of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from finmaas_core.errors import InvalidInput
from finmaas_core.quantities import check_digest

SMALL_BYTES = 256 << 10
"""Blobs up to here go into packs."""
PACK_BYTES = 8 << 20
PACK_BLOBS = 500
_HEADER_BYTES = 36


class Packed(NamedTuple):
    """A blob in a pack."""

    digest: str
    data: bytes

    @property
    def is_whole(self) -> bool:
        """Whether the bytes are those of the digest."""
        return hashlib.sha256(self.data).hexdigest() == self.digest


def write_pack(blobs: Iterable[Packed]) -> Iterator[bytes]:
    """The pieces of a pack, in order."""
    for digest, data in blobs:
        yield bytes.fromhex(check_digest(digest)) + len(data).to_bytes(4, "little")
        yield data


def read_pack(body: bytes) -> list[Packed]:
    """The blobs of a pack, not compared with their digests. InvalidInput for one that ends early or is too large."""
    view, at = memoryview(body), 0
    found: list[Packed] = []
    while at < len(view):
        start = at + _HEADER_BYTES
        if start > len(view):
            raise InvalidInput(f"the pack ends in the middle of blob {len(found) + 1}; send it again, whole")
        digest, size = view[at : at + 32].hex(), int.from_bytes(view[at + 32 : start], "little")
        if size > SMALL_BYTES or len(found) == PACK_BLOBS:
            raise InvalidInput(f"a pack holds {PACK_BLOBS} blobs of up to {SMALL_BYTES:,} bytes; put others one by one")
        if start + size > len(view):
            raise InvalidInput(f"the pack ends in the middle of the blob {digest}; send it again, whole")
        found.append(Packed(digest, bytes(view[start : start + size])))
        at = start + size
    return found


def plan_packs(sizes: Sequence[int]) -> Iterator[range]:
    """Runs of small blobs, by number, that make one pack each."""
    start = total = 0
    for number, size in enumerate(sizes):
        if number > start and (total + size > PACK_BYTES or number - start == PACK_BLOBS):
            yield range(start, number)
            start, total = number, 0
        total += size
    if start < len(sizes):
        yield range(start, len(sizes))
