"""The Hub protocol, writing, by huggingface_hub itself and by requests that it would not send."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from live_api import serve_live
from model_files import FILES, WEIGHTS

from finmaas_core.clock import FakeClock
from finmaas_platform.domain.drafts import INLINE_BYTES
from finmaas_registry.store import MemoryStore

Headers = dict[str, str]
ID = "default/default.new"
URL = f"/api/models/{ID}"
RELEASE = "/api/v1/drafts/model/default/default/new/release"


def token_of(headers: Headers) -> str:
    return headers["Authorization"].removeprefix("Bearer ")


@pytest.fixture(autouse=True)
def _without_xet(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `HF_HUB_DISABLE_XET=1`, which the library reads when it is imported."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    with serve_live(app) as url:
        yield url


@pytest.fixture
def hub(url: str, engineer: Headers) -> HfApi:
    return HfApi(endpoint=url, token=token_of(engineer))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def line(key: str, **value: Any) -> bytes:
    return json.dumps({"key": key, "value": value}).encode() + b"\n"


def inline(path: str, content: bytes = b"x") -> bytes:
    return line("file", path=path, content=base64.b64encode(content).decode(), encoding="base64")


def commit(client: TestClient, headers: Headers, *lines: bytes, repo: str = ID) -> Any:
    return client.post(f"/api/models/{repo}/commit/main", content=b"".join(lines), headers=headers)


def make(client: TestClient, headers: Headers) -> None:
    body = {"name": "default.new", "organization": "default"}
    assert client.post("/api/repos/create", json=body, headers=headers).status_code == 200


class TestFlow:
    def test_a_folder_becomes_a_draft_and_the_draft_a_version(
        self, hub: HfApi, client: TestClient, engineer: Headers, folder: Path
    ) -> None:
        assert hub.create_repo(ID).repo_id == ID
        empty = hub.model_info(ID)
        assert empty.siblings == []
        done = hub.upload_folder(repo_id=ID, folder_path=folder, commit_message="first")
        assert [hub.list_repo_files(ID, revision=name) for name in ("main", "draft", done.oid)] == [sorted(FILES)] * 3
        assert client.get("/api/v1/models", headers=engineer).json()["items"] == []
        (draft,) = client.get("/api/v1/drafts", headers=engineer).json()["items"]
        assert (draft["name"], draft["revision"], draft["message"]) == ("new", done.oid, "first")

        version = client.post(RELEASE, json={}, headers=engineer).json()
        assert (version["ref"], version["digest"][:40], version["description"]) == (
            "default/default/new@1", done.oid, "first",
        )  # fmt: skip
        assert hub.model_info(ID, revision="v1").sha == done.oid
        assert client.get("/api/v1/drafts", headers=engineer).json()["items"] == []

    def test_a_draft_goes_on_from_the_newest_version(
        self, hub: HfApi, client: TestClient, engineer: Headers, folder: Path
    ) -> None:
        hub.create_repo(ID)
        first = hub.upload_folder(repo_id=ID, folder_path=folder).oid
        client.post(RELEASE, json={}, headers=engineer)
        hub.upload_file(repo_id=ID, path_in_repo="README.md", path_or_fileobj=b"---\nlicense: mit\n---\n# card")
        assert hub.model_info(ID).sha == first
        assert "README.md" in hub.list_repo_files(ID, revision="draft")
        assert {ref.name for ref in hub.list_repo_refs(ID).branches} == {"main", "draft"}
        hub.delete_file("README.md", ID)
        hub.upload_file(repo_id=ID, path_in_repo="notes/a.txt", path_or_fileobj=b"a")
        hub.delete_folder("notes", ID)
        assert hub.model_info(ID, revision="draft").sha == first
        assert client.post(RELEASE, json={}, headers=engineer).json()["version"] == 1

    def test_large_files_go_by_lfs_in_one_go_or_in_parts(
        self, hub: HfApi, folder: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("finmaas_platform.domain.drafts.INLINE_BYTES", 3)
        monkeypatch.setattr("finmaas_platform.services.hub_uploads.PART_BYTES", 20)
        hub.create_repo(ID)
        hub.upload_folder(repo_id=ID, folder_path=folder)
        digest = hashlib.sha256(FILES["model.safetensors"]).hexdigest()
        assert b"".join(store.open(digest)) == FILES["model.safetensors"]
        assert hub.get_paths_info(ID, "model.safetensors")[0].size == len(FILES["model.safetensors"])  # type: ignore[union-attr]
        again = hub.upload_folder(repo_id=ID, folder_path=folder)
        assert again.oid == hub.model_info(ID).sha

    def test_repositories_are_made_and_dropped(self, hub: HfApi, client: TestClient, engineer: Headers) -> None:
        assert hub.create_repo("new", private=True).repo_id == ID
        with pytest.raises(HfHubHTTPError, match="exists already"):
            hub.create_repo(ID)
        assert hub.create_repo(ID, exist_ok=True).repo_id == ID
        with pytest.raises(BadRequestError, match="no repository here is public"):
            hub.create_repo("default/other", private=False)
        with pytest.raises(RepositoryNotFoundError, match="a project that exists"):
            hub.create_repo("default/nowhere.model")
        hub.delete_repo(ID)
        assert not hub.repo_exists(ID)

    def test_a_draft_is_a_branch_that_can_be_opened_and_dropped(
        self, hub: HfApi, client: TestClient, engineer: Headers, folder: Path
    ) -> None:
        hub.create_repo(ID)
        hub.upload_folder(repo_id=ID, folder_path=folder)
        client.post(RELEASE, json={}, headers=engineer)
        with pytest.raises(RevisionNotFoundError):
            hub.model_info(ID, revision="draft")
        hub.create_branch(ID, branch="draft")
        hub.create_branch(ID, branch="draft", exist_ok=True)
        assert hub.model_info(ID, revision="draft").sha == hub.model_info(ID).sha
        hub.delete_branch(ID, branch="draft")
        with pytest.raises(BadRequestError, match="gather in `draft`"):
            hub.create_branch(ID, branch="feature")
        with pytest.raises(BadRequestError, match="tags are versions"):
            hub.create_tag(ID, tag="best")
        with pytest.raises(HfHubHTTPError, match="versions, which never change"):
            hub.delete_repo(ID)

    def test_an_adapter_is_released_on_its_base(
        self, hub: HfApi, client: TestClient, engineer: Headers, folder: Path
    ) -> None:
        for name, files in (
            ("new", FILES),
            ("tuned", {"adapter_config.json": b"{}", "a.safetensors": WEIGHTS + bytes(8)}),
        ):
            hub.create_repo(f"default/{name}")
            hub.create_commit(
                f"default/{name}", [CommitOperationAdd(path, content) for path, content in files.items()],
                commit_message="x",
            )  # fmt: skip
        client.post(RELEASE, json={}, headers=engineer)
        url = RELEASE.replace("/new/", "/tuned/")
        assert "give `base`" in client.post(url, json={}, headers=engineer).json()["detail"]
        made = client.post(url, json={"base": "new@1"}, headers=engineer).json()
        assert (made["kind"], made["version"]) == ("adapter", 1)


class TestAuthors:
    def test_whoever_committed_to_a_draft_cannot_approve_what_it_became(
        self, hub: HfApi, client: TestClient, engineer: Headers, folder: Path, make_principal: Callable[..., Headers]
    ) -> None:
        partner, other = make_principal("tenant-admin"), make_principal("approver")
        hub.create_repo(ID)
        hub.upload_folder(repo_id=ID, folder_path=folder, commit_message="first")
        assert commit(client, partner, line("header", summary="card"), inline("README.md", b"# new")).status_code == 200
        version = client.post(RELEASE, json={}, headers=engineer).json()
        path = f"/api/v1/models/{version['ref'].replace('@', '/versions/')}"
        assert client.post(f"{path}/validate", json={"note": "x"}, headers=engineer).status_code == 200
        refused = client.post(f"{path}/approve", json={"note": "x"}, headers=partner)
        assert (refused.status_code, "is its author" in refused.json()["detail"]) == (403, True), refused.text
        assert client.post(f"{path}/approve", json={"note": "x"}, headers=other).status_code == 200


class TestDatasets:
    RELEASE = "/api/v1/drafts/dataset/default/default/rows/release"

    def push(self, hub: HfApi, files: dict[str, bytes]) -> None:
        hub.create_repo("default/rows", repo_type="dataset", exist_ok=True)
        operations = [CommitOperationAdd(path, content) for path, content in files.items()]
        hub.create_commit("default/rows", operations, commit_message="rows", repo_type="dataset")

    def test_shards_of_parquet_become_one_version(self, hub: HfApi, client: TestClient, engineer: Headers) -> None:
        shards = [parquet([{"text": f"question {n}-{m}", "label": f"l{m % 2}"} for m in range(30)]) for n in range(2)]
        named = {f"data/train-0000{n}-of-00002.parquet": shard for n, shard in enumerate(shards)}
        self.push(hub, {**named, "README.md": b"# rows"})
        made = client.post(self.RELEASE, json={"text": "text", "label": "label"}, headers=engineer)
        assert (made.status_code, made.json()["rows"], made.json()["ref"]) == (201, 60, "default/default/rows@1")
        assert client.post(self.RELEASE, json={}, headers=engineer).status_code == 404
        assert hub.list_repo_files("default/rows", repo_type="dataset", revision="v1") == [
            file["path"] for file in made.json()["files"]
        ]
        self.push(hub, {"rows.csv": b"text,label\n" + b"".join(b"q %d,l\n" % n for n in range(20))})
        hub.delete_folder("data", "default/rows", repo_type="dataset")
        assert client.post(self.RELEASE, json={}, headers=engineer).json()["rows"] == 20

    @pytest.mark.parametrize(
        ("files", "said"),
        [
            ({"README.md": b"# x"}, "no file of rows"),
            ({"a.csv": b"text,label\na,b\n", "b.csv": b"text,label\na,b\n"}, "several files of rows"),
            ({"a.csv": b"text,label\na\n"}, "line 2"),
            ({"a/x.parquet": b"1", "b/x.parquet": b"2"}, r"several folders (a, b)"),
            ({"a/x.parquet": b"1", "a/y.parquet": b"2"}, "no Parquet file"),
        ],
    )
    def test_what_is_no_dataset_stays_a_draft(
        self, hub: HfApi, client: TestClient, engineer: Headers, files: dict[str, bytes], said: str
    ) -> None:
        self.push(hub, files)
        answer = client.post(self.RELEASE, json={}, headers=engineer)
        assert (answer.status_code, said in answer.json()["detail"]) == (422, True), answer.text
        assert len(client.get("/api/v1/drafts", headers=engineer).json()["items"]) == 1

    def test_roles_and_tenants(
        self, hub: HfApi, client: TestClient, stranger: Headers, make_principal: Callable[..., Headers]
    ) -> None:
        self.push(hub, {"a.csv": b"text,label\na,b\n"})
        assert client.post(self.RELEASE, json={}, headers=stranger).status_code == 404
        assert client.post(self.RELEASE, json={}, headers=make_principal("auditor")).status_code == 403


def parquet(rows: list[dict[str, str]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


class TestTwoWriters:
    def test_the_second_is_told_that_it_has_not_seen_the_first(self, hub: HfApi) -> None:
        hub.create_repo(ID)
        seen = hub.model_info(ID).sha
        for number in (1, 2):
            operation = CommitOperationAdd(f"{number}.txt", b"x")
            if number == 1:
                hub.create_commit(ID, [operation], commit_message="mine", parent_commit=seen)
                continue
            with pytest.raises(HfHubHTTPError, match="a commit has happened since") as raised:
                hub.create_commit(ID, [operation], commit_message="mine too", parent_commit=seen)
            assert raised.value.response.status_code == 412
        assert hub.list_repo_files(ID) == ["1.txt"]

    def test_one_that_names_no_parent_adds_to_what_is_there(self, hub: HfApi) -> None:
        hub.create_repo(ID)
        for number in (1, 2):
            hub.create_commit(ID, [CommitOperationAdd(f"{number}.txt", b"x")], commit_message="x")
        assert hub.list_repo_files(ID) == ["1.txt", "2.txt"]

    def test_a_commit_that_is_sent_again_is_done_once(self, client: TestClient, engineer: Headers) -> None:
        make(client, engineer)
        commit(client, engineer, inline("old.txt"))
        parent = client.get(URL, headers=engineer).json()["sha"]
        lines = (line("header", summary="x", parentCommit=parent), line("deletedFile", path="old.txt"), inline("a.txt"))
        first, second = (commit(client, engineer, *lines) for _ in range(2))
        assert (second.status_code, second.json()) == (200, first.json())
        events = client.get("/api/v1/drafts", headers=engineer).json()["items"]
        assert [file["path"] for file in events[0]["files"]] == ["a.txt"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("path", "content", "said"),
        [
            ("../evil", b"x", "'..'"),
            ("/etc/passwd", b"x", "is absolute"),
            ("a/../b", b"x", "'..'"),
            ("a\\b", b"x", "backslash"),
            ("C:b", b"x", "colon"),
            (".git/config", b"x", "has a .git in it"),
            ("a\x00b", b"x", "control character"),
            ("pytorch_model.bin", b"x", "are pickles"),
            ("training_args.bin", b"x", "are pickles"),
            ("modeling.py", b"x", "it is code"),
            ("config.json", b'{"auto_map": {"AutoModel": "m.M"}}', "auto_map"),
            ("config.json", b"{", "not JSON"),
            ("model.safetensors", WEIGHTS, "was it copied whole?"),
        ],
    )
    def test_what_no_version_may_hold_is_refused_when_it_is_committed(
        self, client: TestClient, engineer: Headers, path: str, content: bytes, said: str
    ) -> None:
        make(client, engineer)
        answer = commit(client, engineer, inline(path, content))
        assert (answer.status_code, said in answer.json()["error"]) == (400, True), answer.text
        assert said in answer.headers["X-Error-Message"]
        assert client.get(URL, headers=engineer).json()["siblings"] == []

    def test_by_name_even_before_it_is_sent(self, hub: HfApi) -> None:
        hub.create_repo(ID)
        with pytest.raises(BadRequestError, match="are pickles"):
            hub.upload_file(repo_id=ID, path_in_repo="pytorch_model.bin", path_or_fileobj=b"x")

    @pytest.mark.parametrize(
        "paths", [("A.txt", "a.txt"), ("caf\u00e9.txt", "cafe\u0301.txt"), ("a", "a/b"), ("ß.txt", "SS.txt")]
    )
    def test_paths_that_some_disk_takes_for_one(
        self, client: TestClient, engineer: Headers, paths: tuple[str, str]
    ) -> None:
        make(client, engineer)
        answer = commit(client, engineer, *(inline(path) for path in paths))
        assert answer.status_code == 400, answer.text

    @pytest.mark.parametrize(
        "body",
        [
            b"{",
            b"[]\n",
            b'{"key": "file"}\n',
            line("symlink", path="a", target="/etc/passwd"),
            line("file", path="a", content="!", encoding="base64"),
            line("lfsFile", path="a", algo="sha256", oid="0" * 64, size=3),
            line("lfsFile", path="a", algo="md5", oid="0" * 32, size=3),
            line("lfsFile", path="a", algo="sha256", oid="../../x", size=3),
        ],
    )
    def test_commits_that_make_no_sense(self, client: TestClient, engineer: Headers, body: bytes) -> None:
        make(client, engineer)
        assert commit(client, engineer, body).status_code == 400
        assert client.get(URL, headers=engineer).json()["siblings"] == []

    def test_a_deletion_of_what_is_not_there(self, hub: HfApi) -> None:
        hub.create_repo(ID)
        with pytest.raises(RemoteEntryNotFoundError):
            hub.create_commit(ID, [CommitOperationDelete("nothing.txt")], commit_message="x")

    def test_versions_are_no_branch(self, hub: HfApi) -> None:
        hub.create_repo(ID)
        with pytest.raises(BadRequestError, match="versions never change"):
            hub.upload_file(repo_id=ID, path_in_repo="a.txt", path_or_fileobj=b"x", revision="v1")
        with pytest.raises(BadRequestError, match="no pull requests"):
            hub.upload_file(repo_id=ID, path_in_repo="a.txt", path_or_fileobj=b"x", create_pr=True)

    def test_a_file_of_another_tenant_cannot_be_named_by_its_digest(
        self, client: TestClient, engineer: Headers, stranger: Headers
    ) -> None:
        secret = b"the weights of another bank"
        digest = hashlib.sha256(secret).hexdigest()
        client.put(f"/api/v1/blobs/{digest}", content=secret, headers=stranger)
        make(client, engineer)
        answer = commit(client, engineer, line("lfsFile", path="a.txt", algo="sha256", oid=digest, size=len(secret)))
        assert (answer.status_code, "were not sent" in answer.json()["error"]) == (400, True)
        batch = {"operation": "upload", "objects": [{"oid": digest, "size": len(secret)}]}
        told = client.post(f"/{ID}.git/info/lfs/objects/batch", json=batch, headers=engineer).json()
        assert "actions" in told["objects"][0], "it must look as if nobody had it"

    def test_roles_and_tenants(
        self, client: TestClient, engineer: Headers, stranger: Headers, make_principal: Callable[..., Headers]
    ) -> None:
        make(client, engineer)
        for headers, status in ((make_principal("app-developer"), 403), (stranger, 404)):
            assert commit(client, headers, inline("a.txt")).status_code == status
            body = {"files": [{"path": "a", "size": 1}]}
            assert client.post(f"{URL}/preupload/main", json=body, headers=headers).status_code == status
            batch = {"operation": "upload", "objects": []}
            assert client.post(f"/{ID}.git/info/lfs/objects/batch", json=batch, headers=headers).status_code == status
            assert client.post(RELEASE, json={}, headers=headers).status_code == status
            assert client.delete(RELEASE.removesuffix("/release"), headers=headers).status_code == status

    def test_a_frozen_tenant_reads_and_does_not_write(
        self, client: TestClient, admin: Headers, engineer: Headers
    ) -> None:
        make(client, engineer)
        commit(client, engineer, inline("a.txt"))
        batch = {"operation": "upload", "objects": [{"oid": hashlib.sha256(b"x" * 9).hexdigest(), "size": 9}]}
        told = client.post(f"/{ID}.git/info/lfs/objects/batch", json=batch, headers=engineer).json()
        client.patch("/api/v1/tenants/default", json={"state": "frozen"}, headers=admin)
        assert commit(client, engineer, inline("b.txt")).status_code == 403
        assert client.put(told["objects"][0]["actions"]["upload"]["href"], content=b"x" * 9).status_code == 403
        found = client.post(f"{URL}/paths-info/main", data={"paths": ["a.txt"]}, headers=engineer)
        assert [entry["path"] for entry in found.json()] == ["a.txt"]

    def test_xet_is_answered_with_what_to_do(self, client: TestClient, engineer: Headers) -> None:
        make(client, engineer)
        answer = client.get(f"{URL}/xet-write-token/main", headers=engineer)
        assert (answer.status_code, "HF_HUB_DISABLE_XET=1" in answer.json()["error"]) == (400, True)

    def test_the_metadata_of_a_card_is_checked(self, hub: HfApi) -> None:
        hub.create_repo(ID)
        with pytest.raises(ValueError, match="Invalid metadata"):
            hub.upload_file(repo_id=ID, path_in_repo="README.md", path_or_fileobj=b"---\na: [\n---\n")


class TestUploads:
    DATA = b"0123456789" * 10
    DIGEST = hashlib.sha256(DATA).hexdigest()

    @pytest.fixture
    def ask(self, client: TestClient, engineer: Headers) -> Callable[..., Any]:
        make(client, engineer)

        def ask(size: int = len(self.DATA), digest: str = self.DIGEST) -> Any:
            body = {
                "operation": "upload",
                "transfers": ["basic", "multipart"],
                "objects": [{"oid": digest, "size": size}],
            }
            answer = client.post(f"/{ID}.git/info/lfs/objects/batch", json=body, headers=engineer)
            return answer.json()["objects"][0]

        return ask

    def test_is_taken_once_and_again(self, client: TestClient, ask: Callable[..., Any], engineer: Headers) -> None:
        href = ask()["actions"]["upload"]["href"]
        assert [client.put(href, content=self.DATA).status_code for _ in range(2)] == [200, 200]
        assert "actions" not in ask()
        added = commit(client, engineer, line("lfsFile", path="a.txt", algo="sha256", oid=self.DIGEST, size=100))
        assert added.status_code == 200

    @pytest.mark.parametrize("body", [b"", DATA[:-1], DATA + b"x", b"x" * 100])
    def test_other_bytes_are_refused(
        self, client: TestClient, ask: Callable[..., Any], store: MemoryStore, body: bytes
    ) -> None:
        answer = client.put(ask()["actions"]["upload"]["href"], content=body)
        assert (answer.status_code, list(store.list())) == (400, [])

    def test_an_address_is_for_one_digest_and_a_while(
        self, client: TestClient, ask: Callable[..., Any], clock: FakeClock
    ) -> None:
        href = ask()["actions"]["upload"]["href"]
        other = hashlib.sha256(b"other").hexdigest()
        assert client.put(href.replace(self.DIGEST, other), content=b"other").status_code == 401
        assert client.put(href[:-1] + ("0" if href[-1] != "0" else "1"), content=self.DATA).status_code == 401
        assert client.put(href.split("?")[0], content=self.DATA).status_code == 400
        clock.advance(13 * 3600)
        assert client.put(href, content=self.DATA).status_code == 401

    def test_who_is_locked_out_uploads_no_more(
        self, client: TestClient, ask: Callable[..., Any], admin: Headers, engineer: Headers
    ) -> None:
        href = ask()["actions"]["upload"]["href"]
        me = client.get("/api/v1/whoami", headers=engineer).json()["id"]
        client.patch(f"/api/v1/principals/{me}", json={"disabled": True}, headers=admin)
        assert client.put(href, content=self.DATA).status_code == 401

    def test_a_file_that_is_too_large(self, ask: Callable[..., Any]) -> None:
        assert "more than one file may have" in ask(size=1 << 60)["error"]["message"]

    @pytest.fixture
    def parts(self, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        monkeypatch.setattr("finmaas_platform.services.hub_uploads.PART_BYTES", 40)
        upload: dict[str, Any] = ask()["actions"]["upload"]
        return upload

    def send(self, client: TestClient, parts: dict[str, Any]) -> list[dict[str, Any]]:
        sent = []
        for number in (1, 2, 3):
            answer = client.put(parts["header"][str(number)], content=self.DATA[(number - 1) * 40 : number * 40])
            sent.append({"partNumber": number, "etag": answer.headers["ETag"]})
        return sent

    def test_parts_are_joined_whatever_their_order(
        self, client: TestClient, parts: dict[str, Any], store: MemoryStore
    ) -> None:
        sent = self.send(client, parts)
        for _ in range(2):
            assert client.post(parts["href"], json={"oid": self.DIGEST, "parts": sent[::-1]}).status_code == 200
        assert b"".join(store.open(self.DIGEST)) == self.DATA

    @pytest.mark.parametrize("fault", ["missing", "twice", "swapped", "foreign", "nonsense"])
    def test_parts_that_are_not_what_was_sent(
        self, client: TestClient, parts: dict[str, Any], store: MemoryStore, fault: str, stranger: Headers
    ) -> None:
        sent = self.send(client, parts)
        if fault == "missing":
            sent.pop()
        elif fault == "twice":
            sent[2] = sent[1]
        elif fault == "swapped":
            sent[0]["etag"], sent[1]["etag"] = sent[1]["etag"], sent[0]["etag"]
        elif fault == "foreign":
            secret = hashlib.sha256(self.DATA).hexdigest()
            client.put(f"/api/v1/blobs/{secret}", content=self.DATA, headers=stranger)
            sent = [{"partNumber": 1, "etag": f"{secret}-100-{'0' * 64}"}]
        else:
            sent[0]["etag"] = '"é"'
        assert client.post(parts["href"], json={"oid": self.DIGEST, "parts": sent}).status_code == 400
        assert store.stat(self.DIGEST) == (len(self.DATA) if fault == "foreign" else None)

    def test_a_line_that_never_ends_is_cut(self, client: TestClient, engineer: Headers) -> None:
        make(client, engineer)
        answer = commit(client, engineer, b'{"key": "' + b"x" * (INLINE_BYTES * 2))
        assert (answer.status_code, "longer than" in answer.json()["error"]) == (400, True)
