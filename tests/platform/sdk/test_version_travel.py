"""Versions that travel: from one installation to another by an archive, and from a Hub by its protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from live_api import serve_live
from model_files import ADAPTER, FILES

from finmaas_core.errors import Corrupt, InvalidInput, NotFound, Unavailable
from finmaas_platform.sdk import Client
from finmaas_platform.sdk.hub_import import HubFile, HubSource, choose_files
from finmaas_registry.store import MemoryStore

Headers = dict[str, str]


def token_of(headers: Headers) -> str:
    return headers["Authorization"].removeprefix("Bearer ")


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    with serve_live(app) as url:
        yield url


@pytest.fixture
def here(url: str, engineer: Headers) -> Iterator[Client]:
    """A client of the tenant `default`."""
    with Client(url, token_of(engineer)) as client:
        yield client


@pytest.fixture
def there(url: str, stranger: Headers) -> Iterator[Client]:
    """A client of the tenant `other`, which sees nothing of `default`: as good as another site."""
    with Client(url, token_of(stranger)) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model", FILES | {"notes/说明.txt": "你好".encode()})


class TestArchives:
    def test_a_model_is_the_same_at_the_other_site(
        self, here: Client, there: Client, folder: Path, tmp_path: Path, client: TestClient, stranger: Headers
    ) -> None:
        version = here.models.import_folder(folder, "tiny", description="a stand-in")
        seen: list[tuple[int, int]] = []
        path = here.version_archives.export(version, tmp_path / "tiny.tar", on_progress=lambda *at: seen.append(at))
        assert seen[-1][0] == seen[-1][1]
        made = there.version_archives.import_model(path, project="other/default")
        assert (made.ref, made.digest, made.description) == ("other/default/tiny@1", version.digest, "a stand-in")
        again = there.version_archives.import_model(path, project="other/default")
        assert again.id == made.id
        out = tmp_path / "out"
        there.models.download("other/default/tiny@1", out)
        assert (out / "notes/说明.txt").read_text() == "你好"
        url = "/api/v1/models/other/default/tiny/versions/1/origin"
        origin = client.get(url, headers=stranger).json()
        assert (origin["source"], origin["document"]["ref"]) == ("archive", "default/default/tiny@1")
        assert made.metrics == {}
        assert {path.name for path in tmp_path.iterdir()} == {"home", "model", "tiny.tar", "out"}

    def test_an_adapter_finds_its_base_by_digest(
        self, here: Client, there: Client, folder: Path, tmp_path: Path
    ) -> None:
        base = here.models.import_folder(folder, "base")
        tuned = here.models.import_folder(write_folder(tmp_path / "a", ADAPTER), "tuned", base="base@1")
        archives = [here.version_archives.export(one, tmp_path / f"{one.model}.tar") for one in (base, tuned)]
        with pytest.raises(InvalidInput, match=r"the base of this adapter \(default/default/base@1"):
            there.version_archives.import_model(archives[1], project="other/default")
        there.version_archives.import_model(archives[0], "renamed", "other/default")
        made = there.version_archives.import_model(archives[1], project="other/default")
        assert made.lineage.base_version_id == there.models.version("other/default/renamed@1").id

    def test_a_changed_byte_is_refused_and_leaves_nothing(
        self, here: Client, there: Client, folder: Path, tmp_path: Path
    ) -> None:
        path = here.version_archives.export(here.models.import_folder(folder, "tiny"), tmp_path / "tiny.tar")
        whole = path.read_bytes()
        at = whole.index(FILES["model.safetensors"])
        path.write_bytes(whole[:at] + b"\x00" + whole[at + 1 :])
        with pytest.raises(Corrupt):
            there.version_archives.import_model(path, project="other/default")
        assert list(there.models.list()) == []

    def test_bytes_that_the_store_lost_are_not_exported(
        self, here: Client, folder: Path, tmp_path: Path, store: MemoryStore
    ) -> None:
        version = here.models.import_folder(folder, "tiny")
        digest = next(file.sha256 for file in version.files if file.path == "model.safetensors")
        store._blobs[digest] = b"x" * len(store._blobs[digest])
        with pytest.raises(Corrupt):
            here.version_archives.export(version, tmp_path / "tiny.tar")
        assert {path.name for path in tmp_path.iterdir()} == {"home", "model"}

    def test_a_code_file_hidden_in_an_archive_is_refused(
        self, here: Client, there: Client, folder: Path, tmp_path: Path
    ) -> None:
        version = here.models.import_folder(folder, "tiny")
        path = here.version_archives.export(version, tmp_path / "tiny.tar")
        path.write_bytes(path.read_bytes().replace(b"config.json", b"configur.py"))
        with pytest.raises((InvalidInput, Corrupt)):
            there.version_archives.import_model(path, project="other/default")

    def test_what_is_another_tenants_is_not_exported(self, here: Client, there: Client, folder: Path) -> None:
        version = here.models.import_folder(folder, "tiny")
        with pytest.raises(NotFound):
            there.version_archives.export(version, folder / "x.tar")

    def test_what_is_no_archive(self, here: Client, folder: Path) -> None:
        for path in (folder, folder / "config.json", folder / "nothing"):
            with pytest.raises(InvalidInput):
                here.version_archives.import_model(path)


class TestDatasets:
    def test_rows_become_the_same_files_and_reports_of_this_site(
        self, here: Client, there: Client, tmp_path: Path, client: TestClient, stranger: Headers
    ) -> None:
        rows = tmp_path / "rows.csv"
        rows.write_text("text,label,source\n" + "".join(f"question {n},label-{n % 3},s{n}\n" for n in range(200)))
        version = here.datasets.import_file(rows, "questions")
        path = here.version_archives.export(version, tmp_path / "questions.tar")
        made = there.version_archives.import_dataset(path, project="other/default")
        assert (made.ref, made.rows, made.splits) == ("other/default/questions@1", 200, version.splits)
        told = [{(row["text"], row["label"], row["source"]) for row in each.datasets.rows(ref, split="test", limit=500)}
                for each, ref in ((here, version.ref), (there, made.ref))]  # fmt: skip
        assert told[0] == told[1]
        assert {column["name"] for column in made.columns} == {column["name"] for column in version.columns}
        assert there.version_archives.import_dataset(path, project="other/default").id == made.id
        with pytest.raises(InvalidInput, match="holds a dataset; use `finmaas dataset import-archive`"):
            there.version_archives.import_model(path, project="other/default")


class TestHub:
    ID = "default/default.tiny"

    def test_a_repository_of_our_own_hub_becomes_a_version(
        self, here: Client, there: Client, folder: Path, url: str, engineer: Headers
    ) -> None:
        version = here.models.import_folder(folder, "tiny")
        source = HubSource(url, self.ID, "v1", token_of(engineer))
        seen: list[tuple[int, int]] = []
        made, left = there.models.import_from_hub(
            source, "copy", "other/default", on_progress=lambda *at: seen.append(at)
        )
        assert (made.ref, made.digest, left) == ("other/default/copy@1", version.digest, ())
        assert seen[-1] == (version.size_bytes, version.size_bytes)

    def test_pages_are_followed(
        self, here: Client, folder: Path, url: str, engineer: Headers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("finmaas_platform.api.hub.TREE_PAGE", 1)
        version = here.models.import_folder(folder, "tiny")
        source = HubSource(url, self.ID, token=token_of(engineer))
        assert {file.path for file in source.list_files(source.resolve())} == {file.path for file in version.files}

    def test_what_is_not_there(self, here: Client, url: str, stranger: Headers) -> None:
        with pytest.raises(NotFound, match=r"has no default/default\.tiny at main"):
            here.models.import_from_hub(HubSource(url, self.ID, token=token_of(stranger)), "copy")
        with pytest.raises(Unavailable, match="check --endpoint"):
            here.models.import_from_hub(HubSource("http://127.0.0.1:1", self.ID), "copy")

    def test_bytes_that_are_not_those_of_the_digest_are_refused(
        self, here: Client, there: Client, folder: Path, url: str, engineer: Headers, store: MemoryStore
    ) -> None:
        version = here.models.import_folder(folder, "tiny")
        digest = next(file.sha256 for file in version.files if file.path == "model.safetensors")
        good = store._blobs[digest]
        store._blobs[digest] = b"x" * len(good)
        with pytest.raises(Corrupt):
            there.models.import_from_hub(HubSource(url, self.ID, token=token_of(engineer)), "copy", "other/default")

    def test_only_what_a_version_may_hold_is_taken(self) -> None:
        def file(path: str) -> HubFile:
            return HubFile(path, 1, "", None)

        paths = ["config.json", "model.safetensors", "pytorch_model.bin", "modeling.py", ".gitattributes", "a/.b/c"]
        taken, left = choose_files([file(path) for path in paths])
        assert [one.path for one in taken] == ["config.json", "model.safetensors"]
        assert left == ["pytorch_model.bin", "modeling.py", ".gitattributes", "a/.b/c"]
        with pytest.raises(InvalidInput, match=r"no \*\.safetensors"):
            choose_files([file("config.json"), file("pytorch_model.bin")])
        with pytest.raises(InvalidInput):
            choose_files([file("../config.json"), file("model.safetensors")])
