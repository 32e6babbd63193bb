from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from finmaas_core.errors import Corrupt, NotFound
from finmaas_registry.manifest import FileEntry, make_manifest
from finmaas_registry.materialise import is_complete, materialise
from finmaas_registry.store import FolderStore

CONTENT = {"config.json": b"{}", "sub/model.safetensors": b"weights" * 1000, "copy.json": b"{}"}

WORKER = """
import pathlib, sys
from finmaas_registry.manifest import FileEntry
from finmaas_registry.materialise import materialise
from finmaas_registry.store import FolderStore
root = pathlib.Path(sys.argv[1])
store = FolderStore(root / "blobs")
files = [FileEntry(*line.split("|")[:2], int(line.split("|")[2])) for line in sys.argv[2:]]
def fetch(digest):
    with (root / "fetched").open("a") as log:
        log.write(digest + "\\n")
    return store.open(digest)
folder = materialise(files, fetch, root / "cache" / "version")
assert sum(path.is_file() for path in folder.rglob("*")) == len(files) + 1
"""


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "blobs")


@pytest.fixture
def files(store: FolderStore) -> list[FileEntry]:
    return [FileEntry(path, *store.put([content])) for path, content in CONTENT.items()]


class TestMaterialise:
    def test_lays_a_version_out(self, tmp_path: Path, store: FolderStore, files: list[FileEntry]) -> None:
        folder = materialise(files, store.open, tmp_path / "cache" / "v1")
        assert {path: (folder / path).read_bytes() for path in CONTENT} == CONTENT
        assert is_complete(folder, make_manifest(files))

    def test_fetches_once(self, tmp_path: Path, store: FolderStore, files: list[FileEntry]) -> None:
        folder = materialise(files, store.open, tmp_path / "v1")

        def refuse(_digest: str) -> Iterator[bytes]:
            raise AssertionError("it is there already")

        assert materialise(files, refuse, tmp_path / "v1") == folder

    def test_wrong_bytes_leave_nothing(self, tmp_path: Path, files: list[FileEntry]) -> None:
        with pytest.raises(Corrupt, match=r"config\.json|copy\.json"):
            materialise(files, lambda _digest: [b"wrong"], tmp_path / "cache" / "v1")
        assert [path.name for path in (tmp_path / "cache").iterdir()] == [".v1.lock"]

    def test_a_fetch_that_fails_leaves_nothing_and_may_be_repeated(
        self, tmp_path: Path, store: FolderStore, files: list[FileEntry]
    ) -> None:
        def fail(_digest: str) -> Iterator[bytes]:
            yield b"{"
            raise NotFound("gone")

        with pytest.raises(NotFound):
            materialise(files, fail, tmp_path / "v1")
        assert not (tmp_path / "v1").exists()
        assert materialise(files, store.open, tmp_path / "v1").is_dir()

    def test_replaces_a_folder_that_is_not_whole(
        self, tmp_path: Path, store: FolderStore, files: list[FileEntry]
    ) -> None:
        (tmp_path / "v1").mkdir()
        (tmp_path / "v1" / "left.over").write_text("half")
        (tmp_path / ".v1.scratch-dead").mkdir()
        folder = materialise(files, store.open, tmp_path / "v1")
        assert not (folder / "left.over").exists()
        assert not list(tmp_path.glob(".v1.scratch-*"))

    def test_several_processes_fetch_each_file_once(self, tmp_path: Path, files: list[FileEntry]) -> None:
        lines = [f"{file.path}|{file.sha256}|{file.size}" for file in files]
        argv = [sys.executable, "-c", WORKER, str(tmp_path), *lines]
        workers = [subprocess.Popen(argv) for _ in range(4)]
        assert [worker.wait() for worker in workers] == [0, 0, 0, 0]
        assert len((tmp_path / "fetched").read_text().splitlines()) == len(files)
