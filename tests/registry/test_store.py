from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3_server import own_prefix

from finmaas_core.errors import Corrupt, InvalidInput, NotFound, StoreFull
from finmaas_registry.s3_store import PART_BYTES, S3Store
from finmaas_registry.sealing import PLAIN
from finmaas_registry.store import CHUNK_BYTES, BlobStore, FolderStore, MemoryStore, Stored, put_file

ABSENT = "0" * 64


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(params=["folder", "memory", "s3", "sealed folder", "sealed s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    kind = request.param.split()[-1]
    codecs = (request.getfixturevalue("sealed"), PLAIN) if "sealed" in request.param else (PLAIN,)
    if kind == "s3":
        return S3Store(own_prefix(request.getfixturevalue("s3_address")), codecs)
    return FolderStore(tmp_path / "blobs", codecs) if kind == "folder" else MemoryStore()


class TestBlobStore:
    """The contract that every adapter keeps."""

    @pytest.mark.parametrize(
        "data",
        [b"", b"x", b"\x00" * CHUNK_BYTES, b"\x00" * (CHUNK_BYTES + 7), os.urandom(PART_BYTES * 2 + 9)],
        ids=["empty", "small", "one chunk", "two chunks", "three parts"],
    )
    def test_gives_back_what_was_put(self, store: BlobStore, data: bytes) -> None:
        assert store.put([data[:3], data[3:]]) == Stored(digest_of(data), len(data))
        assert b"".join(store.open(digest_of(data))) == data
        assert store.stat(digest_of(data)) == len(data)

    def test_reads_from_an_offset(self, store: BlobStore) -> None:
        digest, _ = store.put([b"abcdef"])
        assert b"".join(store.open(digest, 4)) == b"ef"
        assert b"".join(store.open(digest, 6)) == b""
        large = os.urandom(3 * CHUNK_BYTES)
        digest, _ = store.put([large])
        for offset in (1, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 1, 3 * CHUNK_BYTES):
            assert b"".join(store.open(digest, offset)) == large[offset:]

    def test_the_same_bytes_twice_are_one_blob(self, store: BlobStore) -> None:
        store.put([b"same"])
        store.put([b"sa", b"me"])
        assert [*store.list()] == [digest_of(b"same")]

    def test_refuses_bytes_that_do_not_match_and_keeps_nothing(self, store: BlobStore) -> None:
        with pytest.raises(Corrupt, match=digest_of(b"right")):
            store.put_expected(digest_of(b"right"), [b"wrong"])
        assert [*store.list()] == []

    def test_takes_bytes_that_match(self, store: BlobStore) -> None:
        assert store.put_expected(digest_of(b"right"), [b"right"]).size == 5

    def test_a_missing_blob_is_named_at_once(self, store: BlobStore) -> None:
        assert store.stat(ABSENT) is None
        with pytest.raises(NotFound, match=ABSENT):
            store.open(ABSENT)

    def test_a_stream_that_breaks_off_leaves_nothing(self, store: BlobStore) -> None:
        def broken() -> Iterator[bytes]:
            yield b"half"
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            store.put(broken())
        assert [*store.list()] == []

    @pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64])
    def test_refuses_what_is_no_digest(self, store: BlobStore, name: str) -> None:
        with pytest.raises(InvalidInput):
            store.put_expected(name, [b""])

    def test_refuses_many_parts_that_do_not_match(self, store: BlobStore) -> None:
        with pytest.raises(Corrupt):
            store.put_expected(ABSENT, [b"x" * PART_BYTES] * 5)
        assert [*store.list()] == []

    def test_deletes(self, store: BlobStore) -> None:
        digest, _ = store.put([b"abc"])
        store.delete(digest)
        store.delete(digest)
        assert store.stat(digest) is None
        assert [*store.list()] == []
        assert store.put([b"abc"]).digest == digest
        assert b"".join(store.open(digest)) == b"abc"

    def test_stores_a_file(self, store: BlobStore, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"content")
        assert put_file(store, tmp_path / "file").digest == digest_of(b"content")


class TestMemoryStore:
    def test_fills_up(self) -> None:
        store = MemoryStore(capacity_bytes=4)
        store.put([b"1234"])
        with pytest.raises(StoreFull):
            store.put([b"5"])
        assert [*store.list()] == [digest_of(b"1234")]


def every_file(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# A program of its own: the test modules are no package that a worker process could import.
PUT_MANY = """
import pathlib, sys
from finmaas_registry.store import FolderStore
store = FolderStore(pathlib.Path(sys.argv[1]))
for number in range(40):
    store.put([b"shared %d" % number])
    store.put([b"own %d %d" % (int(sys.argv[2]), number)])
    store.sweep()
"""


class TestFolderStore:
    def test_a_full_disk_is_named_and_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = FolderStore(tmp_path)
        monkeypatch.setattr(os, "fsync", _raising(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(StoreFull, match=str(tmp_path)):
            store.put([b"too much"])
        assert every_file(tmp_path) == []

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
    def test_a_write_to_a_full_device_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = FolderStore(tmp_path)
        opened = Path.open

        def open_full(path: Path, mode: str = "r", buffering: int = -1) -> object:
            return opened(Path("/dev/full"), "wb", buffering=0) if mode == "xb" else opened(path, mode, buffering)

        monkeypatch.setattr(Path, "open", open_full)
        monkeypatch.setattr(Path, "exists", lambda _path: True)
        with pytest.raises(StoreFull):
            store.put([b"too much"])

    def test_sweeps_what_a_killed_writer_left_but_not_what_a_living_one_writes(self, tmp_path: Path) -> None:
        store = FolderStore(tmp_path)
        (tmp_path / "tmp" / "dead").write_bytes(b"half")
        swept: list[int] = []

        def chunks() -> Iterator[bytes]:
            yield b"first "
            swept.append(FolderStore(tmp_path).sweep())
            yield b"second"

        digest, _ = store.put(chunks())
        assert swept == [1]
        assert b"".join(store.open(digest)) == b"first second"
        assert [path.name for path in every_file(tmp_path)] == [digest]

    def test_several_processes_write_and_sweep_at_once(self, tmp_path: Path) -> None:
        argv = [sys.executable, "-c", PUT_MANY, str(tmp_path)]
        workers = [subprocess.Popen([*argv, str(seed)]) for seed in range(3)]
        assert [worker.wait() for worker in workers] == [0, 0, 0]
        store = FolderStore(tmp_path)
        digests = [*store.list()]
        assert len(digests) == 40 + 3 * 40
        assert all(digest_of(b"".join(store.open(digest))) == digest for digest in digests)
        assert [*(tmp_path / "tmp").iterdir()] == []


def _raising(error: OSError) -> Callable[[int], None]:
    def fail(_fd: int) -> None:
        raise error

    return fail
