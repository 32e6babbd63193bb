"""Where bytes lie: a content-addressed store of immutable blobs, named by their SHA-256.

The port asks for few verbs, so that a folder, S3 and memory can all serve it. It knows nothing of tenants,
versions or file names: who may see a blob is the control plane's business. Blobs are never changed; the database
row that names a digest is the commit point of whatever was written.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from finmaas_core.clock import Clock
from finmaas_core.errors import Corrupt, NotFound, StoreFull
from finmaas_core.quantities import check_digest
from finmaas_registry.hashing import SideHasher
from finmaas_registry.sealing import PLAIN, Codec

CHUNK_BYTES = 1 << 20
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


class Stored(NamedTuple):
    """What `put` wrote: the SHA-256 in lower-case hex, and the size in bytes."""

    digest: str
    size: int


class BlobStore(Protocol):
    """Immutable blobs by digest. Every adapter passes the suite in tests/registry/test_store.py."""

    def put(self, chunks: Iterable[bytes]) -> Stored:
        """Stores a stream and says what it is called. Raises StoreFull; then nothing of it is left."""
        ...

    def put_expected(self, digest: str, chunks: Iterable[bytes]) -> Stored:
        """Stores a stream that must have this digest, else raises Corrupt; or StoreFull. Then nothing is left."""
        ...

    def open(self, digest: str, offset: int = 0) -> Iterator[bytes]:
        """The bytes from an offset on, in chunks. Raises NotFound at once, not at the first chunk."""
        ...

    def stat(self, digest: str) -> int | None:
        """The size in bytes, or None when there is no such blob."""
        ...

    def list(self) -> Iterator[str]:
        """Every digest, in no order."""
        ...

    def delete(self, digest: str) -> datetime | None:
        """Removes a blob; one that is not there is fine. Only garbage collection calls this.

        A locked one stays, and the end of its lock is returned.
        """
        ...

    @property
    def can_lock(self) -> bool:
        """Whether it is worth asking for locks: not of a folder."""
        ...

    def retain(self, digest: str, until: datetime) -> bool:
        """Locks a blob against change and removal until then; a later end that it has already stays. NotFound.

        False where nothing can be locked: a folder, or a bucket without object lock.
        """
        ...


def read_chunks(file: IO[bytes], size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The rest of a binary file in chunks; the file is left open."""
    while chunk := file.read(size):
        yield chunk


def put_file(store: BlobStore, path: Path) -> Stored:
    """Stores the content of a file."""
    with path.open("rb") as file:
        return store.put(read_chunks(file))


class FolderStore:
    """Blobs as files `ab/cd/abcd…` of one folder; several processes may write to it at once.

    The first codec writes, all of them read: so encryption can be switched on (or off) with blobs there already.

    A blob is written to a scratch file, synced, and renamed into place, so a reader sees all of it or nothing. Writers
    hold a lock on their scratch file: one without a living writer is known by that, and removed by `sweep`.
    """

    def __init__(self, root: Path, codecs: Sequence[Codec] = (PLAIN,)) -> None:
        self.root = root
        self._codecs = codecs
        self._scratch = root / "tmp"
        self._scratch.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, chunks: Iterable[bytes]) -> Stored:
        return self._write(None, chunks)

    def put_expected(self, digest: str, chunks: Iterable[bytes]) -> Stored:
        return self._write(check_digest(digest), chunks)

    def open(self, digest: str, offset: int = 0) -> Iterator[bytes]:
        for codec in self._codecs:
            with suppress(FileNotFoundError):
                return codec.unseal(partial(_read_from, self._path(digest, codec)), offset)
        raise _no_blob(digest)

    def stat(self, digest: str) -> int | None:
        for codec in self._codecs:
            with suppress(FileNotFoundError):
                return codec.plain_size(self._path(digest, codec).stat().st_size)
        return None

    def list(self) -> Iterator[str]:
        for path in self.root.glob("??/??/*"):
            yield path.name.partition(".")[0]

    def delete(self, digest: str) -> datetime | None:
        for codec in self._codecs:
            path = self._path(digest, codec)
            with suppress(FileNotFoundError):
                path.unlink()
                _sync_folder(path.parent)
        return None

    can_lock = False

    def retain(self, digest: str, until: datetime) -> bool:
        return False

    def sweep(self) -> int:
        """Removes what writers that were killed left behind, and says how many files that were. Safe at any time."""
        removed = 0
        for path in self._scratch.iterdir():
            with suppress(FileNotFoundError), path.open("rb") as file:
                if _lock(file.fileno()):
                    path.unlink()
                    removed += 1
        return removed

    def _path(self, digest: str, codec: Codec | None = None) -> Path:
        check_digest(digest)
        return self.root / digest[:2] / digest[2:4] / f"{digest}{(codec or self._codecs[0]).suffix}"

    def _write(self, wanted: str | None, chunks: Iterable[bytes]) -> Stored:
        with self._scratch_file() as (file, scratch), _naming_full_disk(self.root):
            stored = _copy(chunks, self._codecs[0], file.write)
            _check_is(wanted, stored.digest)
            final = self._path(stored.digest)
            if final.exists():
                return stored
            os.fsync(file.fileno())
            self._make_folder(final.parent)
            scratch.rename(final)
            _sync_folder(final.parent)
        return stored

    @contextmanager
    def _scratch_file(self) -> Iterator[tuple[IO[bytes], Path]]:
        while True:
            path = self._scratch / secrets.token_hex(16)
            with _naming_full_disk(self.root):
                file = path.open("xb", buffering=0)
            # A sweep may have taken the file between its creation and the lock; then it has no name any more.
            if _lock(file.fileno()) and path.exists():
                break
            file.close()
        try:
            with file:
                yield file, path
        finally:
            path.unlink(missing_ok=True)

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _sync_folder(folder.parent)
            _sync_folder(self.root)


class MemoryStore:
    """Blobs in a dictionary; `capacity_bytes` makes it fill up as a disk does, a clock lock as a bucket does."""

    def __init__(self, capacity_bytes: int | None = None, lock_clock: Clock | None = None) -> None:
        self._blobs: dict[str, bytes] = {}
        self._locks: dict[str, datetime] = {}
        self._capacity_bytes = capacity_bytes
        self._lock_clock = lock_clock

    def put(self, chunks: Iterable[bytes]) -> Stored:
        return self._write(None, chunks)

    def put_expected(self, digest: str, chunks: Iterable[bytes]) -> Stored:
        return self._write(check_digest(digest), chunks)

    def open(self, digest: str, offset: int = 0) -> Iterator[bytes]:
        if digest not in self._blobs:
            raise _no_blob(digest)
        data = self._blobs[digest]
        return iter([data[at : at + CHUNK_BYTES] for at in range(offset, len(data), CHUNK_BYTES)])

    def stat(self, digest: str) -> int | None:
        data = self._blobs.get(check_digest(digest))
        return None if data is None else len(data)

    def list(self) -> Iterator[str]:
        return iter([*self._blobs])

    def delete(self, digest: str) -> datetime | None:
        until = self._locks.get(check_digest(digest))
        if until is not None and self._lock_clock is not None and until > self._lock_clock.now():
            return until
        self._blobs.pop(digest, None)
        return None

    @property
    def can_lock(self) -> bool:
        return self._lock_clock is not None

    def retain(self, digest: str, until: datetime) -> bool:
        if digest not in self._blobs:
            raise _no_blob(digest)
        if self._lock_clock is not None:
            self._locks[digest] = max(until, self._locks.get(digest, until))
        return self._lock_clock is not None

    def _write(self, wanted: str | None, chunks: Iterable[bytes]) -> Stored:
        data = b"".join(chunks)
        stored = Stored(hashlib.sha256(data).hexdigest(), len(data))
        _check_is(wanted, stored.digest)
        held = sum(map(len, self._blobs.values()))
        is_new = stored.digest not in self._blobs
        if is_new and self._capacity_bytes is not None and held + len(data) > self._capacity_bytes:
            raise _full("the blob store in memory")
        self._blobs[stored.digest] = data
        return stored


def _copy(chunks: Iterable[bytes], codec: Codec, write: Callable[[bytes], int | None]) -> Stored:
    """Writes every chunk whole (a raw file may take less than it is given), hashing beside it."""
    with SideHasher() as hasher:

        def watch() -> Iterator[bytes]:
            for chunk in chunks:
                hasher.update(chunk)
                yield chunk

        for chunk in codec.seal(watch()):
            rest = memoryview(chunk)
            while rest:
                rest = rest[write(rest) or 0 :]  # type: ignore[arg-type]
        return Stored(hasher.hexdigest(), hasher.size)


def _check_is(wanted: str | None, found: str) -> None:
    if wanted is not None and wanted != found:
        raise Corrupt(f"the bytes have the digest {found}, not {wanted}; read the file again and send it whole")


def _read_from(path: Path, offset: int) -> Iterator[bytes]:
    """Opens at once, so that a blob which is collected meanwhile can still be read to its end."""
    file = path.open("rb", buffering=0)
    file.seek(offset)
    return _read_and_close(file)


def _read_and_close(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        yield from read_chunks(file)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _naming_full_disk(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _full(str(root)) from error
        raise


def _full(where: str) -> StoreFull:
    return StoreFull(f"no room is left in {where}; nothing was stored; free some space and send it again")


def _no_blob(digest: str) -> NotFound:
    return NotFound(f"there is no blob {digest} in the store")
