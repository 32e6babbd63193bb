"""Versions that travel: from one installation to another by an archive, and from a Hub by its protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from model_files import ADAPTER, FILES

from finmaas_core.errors import BadSignature, Corrupt, InvalidInput, NotFound, Unavailable
from finmaas_platform.deps import Deps
from finmaas_platform.sdk import Client
from finmaas_platform.sdk.hub_import import HubFile, HubSource, choose_files
from finmaas_platform.services.signatures import open_signing_key
from finmaas_registry.keys import MemorySigningKey
from finmaas_registry.manifest import FileEntry, make_manifest
from finmaas_registry.signing import key_id_of, sign_version
from finmaas_registry.store import MemoryStore
from finmaas_registry.version_archive import read_archive, write_archive

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


Change = Callable[[dict[str, Any]], dict[str, Any]]


class TestSignatures:
    """An archive of an approved version, at a site whose trust root holds the key of the other."""

    @pytest.fixture
    def archive(
        self, here: Client, folder: Path, tmp_path: Path, client: TestClient, engineer: Headers,
        make_principal: Callable[..., Headers],
    ) -> Path:  # fmt: skip
        version = here.models.import_folder(folder, "tiny")
        url = "/api/v1/models/default/default/tiny/versions/1"
        assert client.post(f"{url}/validate", json={}, headers=engineer).status_code == 200
        assert client.post(f"{url}/approve", json={}, headers=make_principal("approver")).status_code == 200
        return here.version_archives.export(version, tmp_path / "tiny.tar")

    @pytest.fixture
    def trusted(self, deps: Deps, tmp_path: Path) -> str:
        """The id of the one key that the importing site trusts: the exporting site's."""
        pem = open_signing_key(deps.settings).public_key()
        self.trust(deps, tmp_path, pem)
        return key_id_of(pem)

    def trust(self, deps: Deps, tmp_path: Path, pem: bytes) -> None:
        (tmp_path / "trust.pem").write_bytes(pem)
        object.__setattr__(deps, "settings", deps.settings.model_copy(update={"trust_root": tmp_path / "trust.pem"}))

    def rewrite(self, path: Path, change: Change, blobs: dict[str, bytes] | None = None) -> None:
        """The archive anew with another document, and other bytes for some files."""
        archive = read_archive(path)
        document = change(dict(archive.document))
        manifest = make_manifest(FileEntry(one["path"], one["sha256"], one["size"]) for one in document["files"])
        held = {file.sha256: b"".join(archive.open_blob(file)) for file in archive.manifest.files}
        held |= {hashlib.sha256(data).hexdigest(): data for data in (blobs or {}).values()}
        with path.open("wb") as out:
            write_archive(out, document, manifest, lambda file: iter([held[file.sha256]]))

    def refused(self, there: Client, path: Path, said: str) -> BadSignature:
        with pytest.raises(BadSignature, match=said) as caught:
            there.version_archives.import_model(path, project="other/default")
        assert list(there.models.list()) == [], "nothing of it is known"
        assert "finmaas model key" in caught.value.message
        assert caught.value.details["digest"] in caught.value.message
        return caught.value

    def test_one_that_holds_is_noted_with_its_key_and_the_version_is_a_candidate(
        self, there: Client, archive: Path, trusted: str, client: TestClient, stranger: Headers
    ) -> None:
        made = there.version_archives.import_model(archive, project="other/default")
        assert (made.state, there.version_archives.origin(made.ref).verified_by) == ("candidate", trusted)
        assert there.models.trust.signature(made.ref) is None, "another site's signature is not this site's approval"
        query = "/api/v1/audit-events?action=model_version.import"
        (event,) = client.get(query, headers=stranger).json()["items"]
        assert (event["after"]["from"], event["after"]["verified_by"]) == ("default/default/tiny@1", trusted)

    @pytest.mark.usefixtures("trusted")
    def test_a_file_changed_with_its_digest_is_named(self, there: Client, archive: Path) -> None:
        other = b'{"architectures": ["Changed"]}'
        digest = hashlib.sha256(other).hexdigest()

        def swap(document: dict[str, Any]) -> dict[str, Any]:
            files = [
                one | {"sha256": digest, "size": len(other)} if one["path"] == "config.json" else one
                for one in document["files"]
            ]
            entries = [FileEntry(one["path"], one["sha256"], one["size"]) for one in files]
            return document | {"files": files, "digest": make_manifest(entries).digest}

        self.rewrite(archive, swap, {"config.json": other})
        error = self.refused(there, archive, "config.json changed, came or went")
        assert error.details["files"] == ["config.json"]

    @pytest.mark.usefixtures("trusted")
    def test_a_manifest_without_one_of_the_files_is_refused(self, there: Client, archive: Path) -> None:
        def drop(document: dict[str, Any]) -> dict[str, Any]:
            files = [one for one in document["files"] if one["path"] != "notes/说明.txt"]
            entries = [FileEntry(one["path"], one["sha256"], one["size"]) for one in files]
            return document | {"files": files, "digest": make_manifest(entries).digest}

        self.rewrite(archive, drop)
        self.refused(there, archive, "notes/说明.txt changed, came or went")

    def test_an_unknown_key_is_refused(self, there: Client, archive: Path, deps: Deps, tmp_path: Path) -> None:
        self.trust(deps, tmp_path, MemorySigningKey().public_key())
        self.refused(there, archive, "does not hold under any trusted key")

    @pytest.mark.usefixtures("trusted")
    def test_a_signature_made_anew_by_a_forger_is_refused(self, there: Client, archive: Path) -> None:
        files = read_archive(archive).manifest.files
        forged = sign_version(MemorySigningKey(), "default/default/tiny@1", files).bundle
        self.rewrite(archive, lambda document: document | {"signature": document["signature"] | {"bundle": forged}})
        self.refused(there, archive, "does not hold under any trusted key")

    @pytest.mark.usefixtures("trusted")
    @pytest.mark.parametrize("broken", [{}, [], "", 1, {"bundle": 1}, {"bundle": ""}, {"bundle": "{}"}])
    def test_a_broken_signature_is_not_taken_for_none(self, there: Client, archive: Path, broken: Any) -> None:
        self.rewrite(archive, lambda document: document | {"signature": broken})
        self.refused(there, archive, "cannot be read|does not hold")

    @pytest.mark.usefixtures("trusted")
    def test_the_signature_of_another_version_is_refused(self, there: Client, archive: Path) -> None:
        self.rewrite(archive, lambda document: document | {"ref": "default/default/tiny@2"})
        self.refused(there, archive, "was made for default/default/tiny@1, not for default/default/tiny@2")

    @pytest.mark.usefixtures("trusted")
    def test_one_whose_signature_was_removed_is_an_unsigned_candidate(self, there: Client, archive: Path) -> None:
        signed = archive.read_bytes()
        self.rewrite(archive, lambda document: document | {"signature": None, "verified_by": "the sender"})
        made = there.version_archives.import_model(archive, project="other/default")
        assert (made.state, there.version_archives.origin(made.ref).verified_by) == ("candidate", None)
        archive.write_bytes(signed)
        again = there.version_archives.import_model(archive, project="other/default")
        assert again.id == made.id
        assert there.version_archives.origin(made.ref).verified_by is not None, "the signed one is noted after it"

    def test_without_a_trust_root_it_is_kept_unchecked(self, there: Client, archive: Path) -> None:
        made = there.version_archives.import_model(archive, project="other/default")
        origin = there.version_archives.origin(made.ref)
        assert (made.state, origin.verified_by, bool(origin.document["signature"])) == ("candidate", None, True)

    def test_the_client_looks_before_it_sends_a_byte(
        self, there: Client, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "mine.pem").write_bytes(MemorySigningKey().public_key())
        monkeypatch.setenv("FINMAAS_TRUST_ROOT", str(tmp_path / "mine.pem"))
        seen: list[tuple[int, int]] = []
        with pytest.raises(BadSignature):
            there.version_archives.import_model(
                archive, project="other/default", on_progress=lambda *at: seen.append(at)
            )
        assert seen == []


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
