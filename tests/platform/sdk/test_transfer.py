"""Pushing and pulling against a real HTTP server in this process, on a folder store."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from finmaas_core.errors import Corrupt, InvalidInput, NotFound, StoreFull
from finmaas_platform.deps import Deps
from finmaas_platform.sdk import Client
from finmaas_platform.sdk.objects import FileEntry
from finmaas_platform.sdk.transfer import find_damaged, part_path, pull_files, push_files
from finmaas_platform.sdk.wire import SocketWire, make_wire
from finmaas_platform.services.kept_blobs import KeptBlobs
from finmaas_registry.blocks import MAX_BLOCK_BYTES
from finmaas_registry.model_folder import LocalFile
from finmaas_registry.store import FolderStore, MemoryStore, Stored

MIB = 1 << 20


@pytest.fixture
def live(app: FastAPI, deps: Deps, engineer: dict[str, str], tmp_path: Path) -> Iterator[Client]:
    """A client over a socket; the store is a folder."""
    store = deps.store
    assert isinstance(store, KeptBlobs)
    store.inner = FolderStore(tmp_path / "blobs")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, access_log=False, loop="asyncio", http="httptools")
        )
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(url=url, token=engineer["Authorization"].removeprefix("Bearer ")) as client:
            client.whoami()
            yield client
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of every blob that arrives at the store from now on."""
    sizes: list[int] = []
    put = FolderStore.put_expected

    def counting(self: FolderStore, digest: str, chunks: Iterable[bytes]) -> Stored:
        stored = put(self, digest, chunks)
        sizes.append(stored.size)
        return stored

    monkeypatch.setattr(FolderStore, "put_expected", counting)
    return sizes


def make_model(folder: Path, tensors: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    header, at = {}, 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [at, at + len(data)]}
        at += len(data)
    head = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"".join(tensors.values()))
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def local(*paths: Path) -> list[LocalFile]:
    return [LocalFile(path.name, path, path.stat().st_size) for path in paths]


class TestPushAndPull:
    def test_what_was_pushed_is_pulled_whole(self, live: Client, tmp_path: Path) -> None:
        folder = make_model(tmp_path / "m", {f"t{n}": os.urandom(MIB) for n in range(5)})
        progress: list[tuple[str, int, int]] = []
        version = live.models.import_folder(folder, "m", on_progress=lambda *seen: progress.append(seen))
        assert isinstance(make_wire(live._transport), SocketWire)
        live.models.download("m", tmp_path / "back")
        for file in version.files:
            assert (tmp_path / "back" / file.path).read_bytes() == (folder / file.path).read_bytes()
        assert [done for stage, done, _ in progress if stage == "upload"][-1] == version.size_bytes
        assert live.models.find_damaged("m", tmp_path / "back") == []
        (tmp_path / "back" / "config.json").write_text("[]")
        assert live.models.find_damaged("m", tmp_path / "back") == ["config.json"]

    def test_one_changed_tensor_is_all_that_is_sent(self, live: Client, tmp_path: Path, sent: list[int]) -> None:
        tensors = {f"t{n}": os.urandom(MIB) for n in range(20)}
        live.models.import_folder(make_model(tmp_path / "one", tensors), "m")
        sent.clear()
        folder = make_model(tmp_path / "two", tensors | {"t7": os.urandom(MIB)})
        version = live.models.import_folder(folder, "m")
        assert (version.version, sent) == (2, [MIB])
        live.models.download("m", tmp_path / "back")
        assert (tmp_path / "back/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()

    def test_pushing_again_sends_nothing(self, live: Client, tmp_path: Path, sent: list[int]) -> None:
        folder = make_model(tmp_path / "m", {f"t{n}": os.urandom(MIB) for n in range(3)})
        first = live.models.import_folder(folder, "m")
        sent.clear()
        assert live.models.import_folder(folder, "m") == first
        assert sent == []

    def test_two_writers_of_one_version_make_one(self, live: Client, tmp_path: Path) -> None:
        folder = make_model(tmp_path / "m", {f"t{n}": os.urandom(MIB) for n in range(8)})
        versions: list[str] = []
        writers = [
            threading.Thread(target=lambda: versions.append(live.models.import_folder(folder, "m").ref))
            for _ in range(2)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(60)
        assert versions == ["default/default/m@1"] * 2

    def test_a_sparse_file_is_sent_once_a_block(self, live: Client, tmp_path: Path, sent: list[int]) -> None:
        path = tmp_path / "sparse"
        with path.open("wb") as file:
            file.truncate(5 * MAX_BLOCK_BYTES + 1)
        (entry,) = push_files(live._transport, local(path))
        assert sorted(sent) == [1, MAX_BLOCK_BYTES]
        assert entry.sha256 == hashlib.file_digest(path.open("rb"), "sha256").hexdigest()
        pull_files(live._transport, [entry], tmp_path / "back")
        assert (tmp_path / "back/sparse").stat().st_size == path.stat().st_size

    def test_many_small_files(self, live: Client, tmp_path: Path, sent: list[int]) -> None:
        paths = [tmp_path / f"f{n}" for n in range(300)]
        for number, path in enumerate(paths):
            path.write_text(f"content {number % 150}")
        entries = push_files(live._transport, local(*paths))
        assert len(sent) == 150
        pull_files(live._transport, entries, tmp_path / "back")
        assert find_damaged(entries, tmp_path / "back") == []

    def test_an_empty_file(self, live: Client, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        entries = push_files(live._transport, local(tmp_path / "empty"))
        pull_files(live._transport, entries, tmp_path / "back")
        assert (tmp_path / "back/empty").read_bytes() == b""


class TestFaults:
    def test_a_part_that_is_there_is_taken_up(
        self, live: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "f").write_bytes(os.urandom(3 * MIB))
        (entry,) = push_files(live._transport, local(tmp_path / "f"))
        part = part_path(tmp_path / "back/f", entry)
        part.parent.mkdir()
        part.write_bytes((tmp_path / "f").read_bytes()[: 2 * MIB])
        asked: list[int] = []
        get = SocketWire._get
        monkeypatch.setattr(SocketWire, "_get", lambda self, d, at, sink: asked.append(at) or get(self, d, at, sink))
        pull_files(live._transport, [entry], tmp_path / "back")
        assert asked == [2 * MIB]
        assert (tmp_path / "back/f").read_bytes() == (tmp_path / "f").read_bytes()
        assert not part.exists()

    def test_wrong_bytes_in_a_part_are_found_and_dropped(self, live: Client, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(os.urandom(MIB))
        (entry,) = push_files(live._transport, local(tmp_path / "f"))
        part = part_path(tmp_path / "back/f", entry)
        part.parent.mkdir()
        part.write_bytes(b"wrong")
        with pytest.raises(Corrupt, match="f came with other bytes"):
            pull_files(live._transport, [entry], tmp_path / "back")
        pull_files(live._transport, [entry], tmp_path / "back")
        assert find_damaged([entry], tmp_path / "back") == []

    def test_a_blob_that_was_changed_in_the_store_is_refused(self, live: Client, tmp_path: Path, deps: Deps) -> None:
        (tmp_path / "f").write_bytes(b"right")
        (entry,) = push_files(live._transport, local(tmp_path / "f"))
        stored = tmp_path / "blobs" / entry.sha256[:2] / entry.sha256[2:4] / entry.sha256
        stored.write_bytes(b"wrong")
        with pytest.raises(Corrupt):
            pull_files(live._transport, [entry], tmp_path / "back")
        assert not (tmp_path / "back/f").exists()

    def test_a_file_that_shrinks_while_it_is_read(self, live: Client, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"x" * 10)
        file = LocalFile("f", tmp_path / "f", 10)
        monkey = pytest.MonkeyPatch()
        with monkey.context() as patch:
            from finmaas_platform.sdk import transfer
            from finmaas_registry.blocks import Span

            patch.setattr(transfer, "plan_file", lambda _path: [Span(0, 20)])
            with pytest.raises(InvalidInput, match="became shorter"):
                push_files(live._transport, [file])

    def test_a_full_store_says_so_and_keeps_nothing_of_it(self, live: Client, tmp_path: Path, deps: Deps) -> None:
        store = deps.store
        assert isinstance(store, KeptBlobs)
        store.inner = MemoryStore(capacity_bytes=MIB)
        (tmp_path / "f").write_bytes(os.urandom(4 * MIB))
        with pytest.raises(StoreFull, match="no room"):
            push_files(live._transport, local(tmp_path / "f"))
        assert [*store.list()] == []

    def test_another_tenants_file_is_not_there(self, live: Client, tmp_path: Path, stranger: dict[str, str]) -> None:
        (tmp_path / "f").write_bytes(b"secret")
        entries = push_files(live._transport, local(tmp_path / "f"))
        with Client(url=live.url, token=stranger["Authorization"].removeprefix("Bearer ")) as other:
            with pytest.raises(NotFound):
                pull_files(other._transport, entries, tmp_path / "back")
            # Whoever holds the bytes may have them: they are sent, not taken from the other tenant.
            push_files(other._transport, local(tmp_path / "f"))
            pull_files(other._transport, entries, tmp_path / "back")

    def test_blocks_of_another_tenant_make_no_file(
        self, live: Client, tmp_path: Path, stranger: dict[str, str]
    ) -> None:
        (tmp_path / "f").write_bytes(b"secret")
        (entry,) = push_files(live._transport, local(tmp_path / "f"))
        with Client(url=live.url, token=stranger["Authorization"].removeprefix("Bearer ")) as other:
            body = {"blocks": [{"digest": entry.sha256, "size": 6}] * 2}
            with pytest.raises(InvalidInput, match="was not sent"):
                other._transport.write("POST", f"/blobs/{'1' * 64}/compose", body)

    def test_a_wrong_file_digest_is_refused(self, live: Client, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"half")
        (entry,) = push_files(live._transport, local(tmp_path / "f"))
        body = {"blocks": [{"digest": entry.sha256, "size": 4}] * 2}
        with pytest.raises(Corrupt, match="cut the file again"):
            live._transport.write("POST", f"/blobs/{'1' * 64}/compose", body)
        right = hashlib.sha256(b"halfhalf").hexdigest()
        for _ in range(2):  # replayed
            assert live._transport.write("POST", f"/blobs/{right}/compose", body) == {"digest": right, "size": 8}
        both = FileEntry(path="both", sha256=right, size=8)
        pull_files(live._transport, [both], tmp_path / "back")
        assert (tmp_path / "back/both").read_bytes() == b"halfhalf"


# A program of its own, to be killed.
PUSH = """
import sys
from pathlib import Path
from finmaas_platform.sdk import Client
url, token, folder = sys.argv[1:]
def tell(stage, done, total):
    if stage == "upload" and done > total // 3:
        print("third", flush=True)
Client(url=url, token=token).models.import_folder(Path(folder), "m", on_progress=tell)
"""


class TestKilled:
    def test_a_killed_push_goes_on_with_what_is_missing(
        self, live: Client, tmp_path: Path, engineer: dict[str, str], sent: list[int]
    ) -> None:
        folder = make_model(tmp_path / "m", {f"t{n}": os.urandom(4 * MIB) for n in range(40)})
        token = engineer["Authorization"].removeprefix("Bearer ")
        argv = [sys.executable, "-c", PUSH, live.url, token, str(folder)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as push:
            assert push.stdout is not None
            assert push.stdout.readline() == b"third\n"
            push.send_signal(signal.SIGKILL)
        before = sum(sent)
        version = live.models.import_folder(folder, "m")
        assert before > version.size_bytes // 4
        # What was under way when it was killed may be sent twice: at most one block a connection.
        assert sum(sent) <= version.size_bytes + 4 * 4 * MIB
        live.models.download("m", tmp_path / "back")
        assert live.models.find_damaged("m", tmp_path / "back") == []
        assert not any((tmp_path / "blobs/tmp").iterdir())
