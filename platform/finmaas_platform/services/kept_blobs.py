"""The blob store as the control plane uses it: files made of blocks read as one, and what is put is kept from garbage
collection until it is named.

A BlobStore over a BlobStore. It opens short transactions of its own, so it is not written to inside another one.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from finmaas_core.clock import Clock
from finmaas_core.errors import Corrupt, Unavailable
from finmaas_core.quantities import check_digest
from finmaas_platform.db.base import SessionFactory, read_unit, unit_of_work
from finmaas_platform.db.blobs import BlobRecipeRow
from finmaas_platform.services.blob_touches import batches, touch
from finmaas_registry.blocks import Block, Recipe, read_recipe
from finmaas_registry.packs import Packed
from finmaas_registry.store import BlobStore, Stored

SIDE_BY_SIDE = 8


class KeptBlobs:
    """Wraps the store of an installation; `inner` is the store itself."""

    def __init__(self, inner: BlobStore, sessions: SessionFactory, clock: Clock) -> None:
        self.inner = inner
        self._sessions = sessions
        self._clock = clock

    def put(self, chunks: Iterable[bytes]) -> Stored:
        """The name is known at the end only: then the blob is touched, and is there or was collected just before."""
        stored = self.inner.put(chunks)
        self._touch(stored.digest)
        if self.inner.stat(stored.digest) is None:
            raise Unavailable(f"the blob {stored.digest} was removed as garbage while it was put; send it again")
        return stored

    def put_expected(self, digest: str, chunks: Iterable[bytes]) -> Stored:
        if self._touch(check_digest(digest)) is not None:
            return _check_only(digest, chunks)  # it lies there as blocks
        return self.inner.put_expected(digest, chunks)

    def put_small(self, blobs: Sequence[Packed]) -> None:
        """Stores small blobs side by side; one transaction keeps all of them from garbage collection."""
        with unit_of_work(self._sessions) as session:
            touch(session, self._clock.now(), [blob.digest for blob in blobs])
            composed = find_composed(session, [blob.digest for blob in blobs])
        missing = [blob for blob in blobs if blob.digest not in composed]
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:  # each waits for the disk
            deque(pool.map(lambda blob: self.inner.put_expected(blob.digest, [blob.data]), missing), maxlen=0)

    def read_small(self, digests: Sequence[str]) -> Iterator[Packed]:
        """Small blobs, in the order given; the database is asked once for all. NotFound at the first missing."""
        with read_unit(self._sessions) as session:
            composed = find_composed(session, digests)
        for digest in digests:
            opened = self.open(digest) if digest in composed else self.inner.open(digest)
            yield Packed(digest, b"".join(opened))

    def open(self, digest: str, offset: int = 0) -> Iterator[bytes]:
        recipe = self._find(digest)
        if recipe is None:
            return self.inner.open(digest, offset)
        return read_recipe(self.inner, recipe, offset)

    def stat(self, digest: str) -> int | None:
        recipe = self._find(digest)
        return self.inner.stat(digest) if recipe is None else recipe.size

    def list(self) -> Iterator[str]:
        return self.inner.list()

    def delete(self, digest: str) -> datetime | None:
        return self.inner.delete(digest)

    @property
    def can_lock(self) -> bool:
        return self.inner.can_lock

    def retain(self, digest: str, until: datetime) -> bool:
        """Of a blob that lies whole: who locks a file made of blocks locks those."""
        return self.inner.retain(digest, until)

    def _find(self, digest: str) -> Recipe | None:
        with read_unit(self._sessions) as session:
            return find_recipe(session, check_digest(digest))

    def _touch(self, digest: str) -> Recipe | None:
        with unit_of_work(self._sessions) as session:
            touch(session, self._clock.now(), [digest])
            return find_recipe(session, digest)


def find_composed(session: Session, digests: Iterable[str]) -> set[str]:
    """Those that lie as blocks."""
    found: set[str] = set()
    for batch in batches(digests):
        found.update(session.scalars(select(BlobRecipeRow.digest).where(BlobRecipeRow.digest.in_(batch))))
    return found


def find_recipe(session: Session, digest: str) -> Recipe | None:
    """How a file is made of blocks; None for one that lies whole, or not at all."""
    row = session.get(BlobRecipeRow, digest)
    return None if row is None else to_recipe(row)


def to_recipe(row: BlobRecipeRow) -> Recipe:
    """The row as the registry knows it."""
    return Recipe(row.digest, row.size_bytes, tuple(Block(digest, size) for digest, size in row.blocks))


def _check_only(digest: str, chunks: Iterable[bytes]) -> Stored:
    sha256, size = hashlib.sha256(), 0
    for chunk in chunks:
        sha256.update(chunk)
        size += len(chunk)
    if sha256.hexdigest() != digest:
        raise Corrupt(f"the bytes have the digest {sha256.hexdigest()}, not {digest}; send the file again, whole")
    return Stored(digest, size)
