"""The Hub protocol, reading: statuses, headers and bodies as its clients expect them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from live_api import serve_live
from model_files import FILES, put, register

from finmaas_core.clock import FakeClock

Headers = dict[str, str]
ID = "default/default.tiny"


def token_of(headers: Headers) -> str:
    return headers["Authorization"].removeprefix("Bearer ")


@pytest.fixture
def version(client: TestClient, engineer: Headers) -> dict[str, Any]:
    """Version 1 of `default/default/tiny`, with a file in a folder and one whose name needs quoting."""
    files = FILES | {"notes/说明 1.txt": "你好".encode(), "notes/empty": b""}
    made: dict[str, Any] = register(client, engineer, put(client, engineer, files)).json()
    return made


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    with serve_live(app) as url:
        yield url


@pytest.fixture
def hub(url: str, engineer: Headers) -> HfApi:
    return HfApi(endpoint=url, token=token_of(engineer))


class TestIds:
    @pytest.mark.parametrize("repo", ["default/default.tiny", "default/tiny"])
    def test_a_model_has_a_long_and_a_short_id(self, hub: HfApi, version: dict[str, Any], repo: str) -> None:
        info = hub.model_info(repo)
        assert (info.id, info.sha, info.private) == (ID, version["digest"][:40], True)

    def test_dots_are_split_where_a_project_ends(self, client: TestClient, admin: Headers, hub: HfApi) -> None:
        for project, name in (("risk.eu", "v1"), ("default", "qwen3-0.6b")):
            client.post("/api/v1/projects", json={"tenant": "default", "name": project}, headers=admin)
            files = put(client, admin, FILES)
            url = f"/api/v1/models/default/{project}/{name}/versions"
            assert client.post(url, json={"files": files}, headers=admin).status_code == 201
        assert hub.model_info("default/risk.eu.v1").id == "default/risk.eu.v1"
        assert hub.model_info("default/qwen3-0.6b").id == "default/default.qwen3-0.6b"

    def test_an_id_that_means_two_models_is_refused(self, client: TestClient, admin: Headers, hub: HfApi) -> None:
        for project, name in (("a", "b.c"), ("a.b", "c")):
            client.post("/api/v1/projects", json={"tenant": "default", "name": project}, headers=admin)
            files = put(client, admin, FILES)
            client.post(f"/api/v1/models/default/{project}/{name}/versions", json={"files": files}, headers=admin)
        with pytest.raises(HfHubHTTPError, match=r"means both default/a\.b/c and default/a/b\.c") as raised:
            hub.model_info("default/a.b.c")
        assert raised.value.response.status_code == 409

    def test_an_id_of_one_part_is_not_found(self, hub: HfApi) -> None:
        with pytest.raises(RepositoryNotFoundError, match=r"write tenant/project\.name"):
            hub.model_info("gpt2")


@pytest.mark.usefixtures("version")
class TestReading:
    def test_snapshot_download_gives_every_byte(self, hub: HfApi, url: str, engineer: Headers, tmp_path: Path) -> None:
        for revision in (None, "main", "v1", hub.model_info(ID).sha):
            where = snapshot_download(
                ID, revision=revision, endpoint=url, token=token_of(engineer), cache_dir=tmp_path / str(revision)
            )
            found = {path.relative_to(where).as_posix(): path.read_bytes() for path in Path(where).rglob("*.*")}
            assert found == FILES | {"notes/说明 1.txt": "你好".encode()}
            assert (Path(where) / "notes/empty").read_bytes() == b""

    def test_lists_files_refs_commits_and_repositories(self, hub: HfApi, version: dict[str, Any]) -> None:
        sha = version["digest"][:40]
        assert hub.list_repo_files(ID) == [file["path"] for file in version["files"]]
        refs = hub.list_repo_refs(ID)
        assert [(ref.name, ref.target_commit) for ref in refs.branches] == [("main", sha)]
        assert [(ref.ref, ref.target_commit) for ref in refs.tags] == [("refs/tags/v1", sha)]
        assert [commit.commit_id for commit in hub.list_repo_commits(ID)] == [sha]
        assert [model.id for model in hub.list_models(author="default")] == [ID]
        assert list(hub.list_models(author="other")) == []
        assert [hub.repo_exists(ID), hub.file_exists(ID, "config.json"), hub.file_exists(ID, "x")] == [
            True,
            True,
            False,
        ]
        assert [hub.revision_exists(ID, "v1"), hub.revision_exists(ID, "v2")] == [True, False]

    def test_an_alias_is_a_branch(self, hub: HfApi, client: TestClient, engineer: Headers) -> None:
        register(client, engineer, put(client, engineer, FILES))
        answer = client.put(
            "/api/v1/models/default/default/tiny/aliases/canary", json={"version": "1"}, headers=engineer
        )
        assert answer.status_code < 300, answer.text
        branches = {ref.name: ref.target_commit for ref in hub.list_repo_refs(ID).branches}
        first, second = (hub.model_info(ID, revision=tag).sha for tag in ("v1", "v2"))
        assert branches == {"main": second, "canary": first}
        assert hub.model_info(ID, revision="canary").sha == first
        with pytest.raises(RevisionNotFoundError):
            hub.model_info(ID, revision="production")

    def test_main_passes_over_what_is_retired(self, hub: HfApi, client: TestClient, engineer: Headers) -> None:
        register(client, engineer, put(client, engineer, FILES))
        url = "/api/v1/models/default/default/tiny/versions/2/retire"
        assert client.post(url, json={}, headers=engineer).status_code == 200
        assert hub.model_info(ID).sha == hub.model_info(ID, revision="v1").sha

    def test_lists_a_tree_by_folder(self, hub: HfApi) -> None:
        assert [entry.path for entry in hub.list_repo_tree(ID)] == sorted([*FILES, "notes"])
        assert [entry.path for entry in hub.list_repo_tree(ID, "notes")] == ["notes/empty", "notes/说明 1.txt"]
        (info, folder) = hub.get_paths_info(ID, ["config.json", "nothing", "notes"])
        assert (info.path, info.lfs.sha256) == ("config.json", hashlib.sha256(b"{}").hexdigest())  # type: ignore[union-attr]
        assert folder.path == "notes"
        with pytest.raises(RemoteEntryNotFoundError):
            list(hub.list_repo_tree(ID, "nothing"))

    def test_pages_of_a_long_tree_are_followed(self, hub: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("finmaas_platform.api.hub.TREE_PAGE", 2)
        assert len(list(hub.list_repo_tree(ID, recursive=True))) == len(FILES) + 3

    def test_the_oid_of_a_file_is_that_of_its_lfs_pointer(self, hub: HfApi) -> None:
        """As git tells it: `git hash-object` of the pointer that `git lfs pointer` writes for `{}`."""
        (info,) = hub.get_paths_info(ID, "config.json")
        pointer = (
            b"version https://git-lfs.github.com/spec/v1\n"
            b"oid sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\nsize 2\n"
        )
        assert info.blob_id == hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()  # type: ignore[union-attr]

    def test_what_is_missing_is_told_apart(self, hub: HfApi, url: str, engineer: Headers, tmp_path: Path) -> None:
        with pytest.raises(RepositoryNotFoundError):
            hub.model_info("default/default.nothing")
        with pytest.raises(RepositoryNotFoundError):
            hub.dataset_info(ID)
        for revision in ("v9", "0" * 40, "feature"):
            with pytest.raises(RevisionNotFoundError):
                hub.model_info(ID, revision=revision)
        with pytest.raises(RemoteEntryNotFoundError):
            hub.hf_hub_download(ID, "nothing.json", cache_dir=tmp_path)

    def test_whoami(self, hub: HfApi) -> None:
        me = hub.whoami()
        assert (me["name"], [org["name"] for org in me["orgs"]]) == ("default-ml-engineer", ["default"])


@pytest.mark.usefixtures("version")
class TestFiles:
    URL = "/default/default.tiny/resolve/v1/config.json"

    def test_head_tells_what_clients_cache_by(
        self, client: TestClient, engineer: Headers, version: dict[str, Any]
    ) -> None:
        answer = client.head(self.URL, headers=engineer)
        digest = hashlib.sha256(b"{}").hexdigest()
        wanted = {
            "X-Repo-Commit": version["digest"][:40],
            "ETag": f'"{digest}"',
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": "2",
            "Content-Length": "2",
            "Accept-Ranges": "bytes",
        }
        assert answer.status_code == 200
        assert {name: answer.headers[name] for name in wanted} == wanted
        assert not [name for name in answer.headers if "xet" in name.lower()]
        assert answer.content == b""

    @pytest.mark.parametrize(
        ("asked", "status", "body"),
        [
            ({}, 200, b"{}"),
            ({"Range": "bytes=1-"}, 206, b"}"),
            ({"Range": "bytes=0-0"}, 206, b"{"),
            ({"Range": "bytes=-1"}, 206, b"}"),
            ({"Range": "bytes=0-99"}, 206, b"{}"),
            ({"Range": "bytes=2-"}, 416, b""),
            ({"Range": "lines=1-"}, 200, b"{}"),
            ({"Range": "bytes=1-", "If-Range": '"another"'}, 200, b"{}"),
            ({"If-None-Match": "ETAG"}, 304, b""),
            ({"If-None-Match": '"another", W/ETAG'}, 304, b""),
            ({"If-None-Match": '"another"'}, 200, b"{}"),
        ],
    )
    def test_ranges_and_conditions(
        self, client: TestClient, engineer: Headers, asked: Headers, status: int, body: bytes
    ) -> None:
        etag = f'"{hashlib.sha256(b"{}").hexdigest()}"'
        headers = {name: value.replace("ETAG", etag) for name, value in asked.items()}
        answer = client.get(self.URL, headers=engineer | headers)
        assert (answer.status_code, answer.content) == (status, body)

    @pytest.mark.parametrize("path", ["../config.json", "notes/../config.json", "%2e%2e/config.json", "/etc/passwd"])
    def test_only_paths_of_the_version_are_files(self, client: TestClient, engineer: Headers, path: str) -> None:
        answer = client.get(f"/default/default.tiny/resolve/v1/{path.replace('..', '%2e%2e')}", headers=engineer)
        assert (answer.status_code, answer.headers["X-Error-Code"]) == (404, "EntryNotFound")


@pytest.mark.usefixtures("version")
class TestAccess:
    def test_what_is_another_tenants_does_not_exist(self, url: str, stranger: Headers, tmp_path: Path) -> None:
        foreign = HfApi(endpoint=url, token=token_of(stranger))
        for ask in (foreign.model_info, foreign.list_repo_refs, foreign.list_repo_files, foreign.auth_check):
            with pytest.raises(RepositoryNotFoundError) as raised:
                ask(ID)
            assert raised.value.response.status_code == 404
        with pytest.raises(RepositoryNotFoundError):
            foreign.hf_hub_download(ID, "config.json", cache_dir=tmp_path)
        assert list(foreign.list_models()) == []
        assert not foreign.repo_exists(ID)

    def test_its_answer_is_that_for_nothing(self, client: TestClient, stranger: Headers) -> None:
        answers = [client.get(f"/api/models/default/{name}", headers=stranger) for name in ("tiny", "none")]
        assert answers[0].json()["error"].replace("tiny", "none") == answers[1].json()["error"]

    def test_an_expired_token_says_so(self, client: TestClient, url: str, engineer: Headers, clock: FakeClock) -> None:
        me = client.get("/api/v1/whoami", headers=engineer).json()["id"]
        body = {"principal_id": me, "expires_in_s": 60}
        token = client.post("/api/v1/access-tokens", json=body, headers=engineer).json()["token"]
        hub = HfApi(endpoint=url, token=token)
        assert hub.repo_exists(ID)
        clock.advance(61)
        with pytest.raises(HfHubHTTPError, match="wrong, revoked or expired") as raised:
            hub.model_info(ID)
        answer = raised.value.response
        assert not isinstance(raised.value, RepositoryNotFoundError)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert answer.headers["X-Error-Message"] == "Invalid credentials in Authorization header"

    def test_without_a_token_nothing_is_there(self, url: str) -> None:
        with pytest.raises(RepositoryNotFoundError, match="no access token was sent"):
            HfApi(endpoint=url, token=False).model_info(ID)

    @pytest.mark.parametrize("kind", ["node", "gateway"])
    def test_machine_tokens_open_nothing(self, client: TestClient, request: pytest.FixtureRequest, kind: str) -> None:
        answer = client.get(f"/api/models/{ID}", headers=request.getfixturevalue(kind))
        assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")

    def test_a_platform_admin_sees_every_tenant(
        self, client: TestClient, admin: Headers, make_principal: Callable[..., Headers]
    ) -> None:
        assert client.get(f"/api/models/{ID}", headers=admin).status_code == 200
