"""Large files by Xet: the real client, and requests that it would not send."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from huggingface_hub import hf_hub_download
from live_api import serve_live
from model_files import FILES, put, register

from finmaas_core.clock import FakeClock
from finmaas_platform.services.hub_addresses import Grant
from finmaas_platform.services.hub_uploads import UploadSigner

Headers = dict[str, str]
ID = "default/default.tiny"
SIZES = {"a.txt": 1, "chunk.txt": 128 << 10, "more.txt": (128 << 10) + 1, "xorbs.txt": (33 << 20) + 12_345}


@pytest.fixture(scope="module")
def large() -> dict[str, bytes]:
    return {name: os.urandom(size) for name, size in SIZES.items()}


@pytest.fixture(autouse=True)
def _even_small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finmaas_platform.api.xet.MIN_BYTES", 1)


@pytest.fixture
def version(client: TestClient, engineer: Headers, large: dict[str, bytes]) -> dict[str, Any]:
    made: dict[str, Any] = register(client, engineer, put(client, engineer, FILES | large)).json()
    return made


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    with serve_live(app) as url:
        yield url


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class TestRealClient:
    @pytest.mark.parametrize("name", SIZES)
    def test_fetches_the_same_bytes(
        self,
        url: str,
        engineer: Headers,
        version: dict[str, Any],
        large: dict[str, bytes],
        name: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("huggingface_hub.file_download.http_get", lambda *_, **__: pytest.fail("not by Xet"))
        token = engineer["Authorization"].removeprefix("Bearer ")
        path = hf_hub_download(ID, name, endpoint=url, token=token, revision="v1", local_dir=tmp_path)
        assert Path(path).read_bytes() == large[name]


class TestRequests:
    @pytest.fixture
    def digest(self, version: dict[str, Any], large: dict[str, bytes]) -> str:
        return digest_of(large["more.txt"])

    @pytest.fixture
    def fetch(self, client: TestClient, engineer: Headers, digest: str) -> str:
        plan = client.get(f"/xet/v1/reconstructions/{digest}", headers=engineer).json()
        ((found,),) = plan["fetch_info"].values()
        return str(found["url"]).removeprefix("http://testserver")

    def test_a_file_says_where_its_token_is(self, client: TestClient, engineer: Headers, digest: str) -> None:
        answer = client.head(f"/{ID}/resolve/v1/more.txt", headers=engineer)
        assert answer.headers["X-Xet-Hash"] == digest
        given = client.get(answer.headers["X-Xet-Refresh-Route"], headers=engineer)
        assert given.headers["X-Xet-Cas-Url"] == given.json()["casUrl"] == "http://testserver/xet"
        assert f"Bearer {given.json()['accessToken']}" == engineer["Authorization"]

    def test_small_files_do_not(
        self, client: TestClient, engineer: Headers, digest: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("finmaas_platform.api.xet.MIN_BYTES", 8 << 20)
        answer = client.head(f"/{ID}/resolve/v1/more.txt", headers=engineer)
        assert "X-Xet-Hash" not in answer.headers

    def test_another_tenant_sees_nothing(self, client: TestClient, stranger: Headers, digest: str) -> None:
        for path in (f"/xet/v1/reconstructions/{digest}", f"/api/models/{ID}/xet-read-token/v1"):
            assert client.get(path, headers=stranger).status_code == 404
            assert client.get(path).status_code == 401

    @pytest.mark.parametrize("asked", ["bytes=131073-", "bytes=999999-1000000"])
    def test_beyond_the_end(self, client: TestClient, engineer: Headers, digest: str, fetch: str, asked: str) -> None:
        headers = engineer | {"Range": asked}
        assert client.get(f"/xet/v1/reconstructions/{digest}", headers=headers).status_code == 416
        assert client.get(fetch, headers={"Range": "bytes=131089-"}).status_code == 416

    def test_a_name_that_is_no_digest(self, client: TestClient, engineer: Headers, version: dict[str, Any]) -> None:
        assert client.get("/xet/v1/reconstructions/..%2fetc", headers=engineer).status_code in (400, 404)
        assert client.get(f"/xet/v1/reconstructions/{'A' * 64}", headers=engineer).status_code == 400

    def test_an_address_is_for_one_file_and_a_while(
        self, client: TestClient, fetch: str, digest: str, large: dict[str, bytes], clock: FakeClock
    ) -> None:
        assert client.get(fetch).content[8:][: 128 << 10] == large["more.txt"][: 128 << 10]
        other = digest_of(large["a.txt"])
        assert client.get(fetch.replace(digest, other)).status_code == 401
        assert client.get(fetch[:-1] + ("0" if fetch[-1] != "0" else "1")).status_code == 401
        assert client.get(fetch.split("?")[0]).status_code == 400
        clock.advance(13 * 3600)
        assert client.get(fetch).status_code == 401

    def test_an_address_to_upload_reads_nothing(
        self, client: TestClient, engineer: Headers, digest: str, fetch: str, clock: FakeClock, app: FastAPI
    ) -> None:
        me = client.get("/api/v1/whoami", headers=engineer).json()["id"]
        grant = Grant(me, digest, SIZES["more.txt"], int(clock.now().timestamp()) + 60)
        signed = UploadSigner(app.state.deps.secrets.pepper).sign(grant)
        assert client.get(f"/xet/files/{digest}?grant={signed}").status_code == 401

    def test_who_is_locked_out_reads_no_more(
        self, client: TestClient, admin: Headers, engineer: Headers, fetch: str
    ) -> None:
        me = client.get("/api/v1/whoami", headers=engineer).json()["id"]
        client.patch(f"/api/v1/principals/{me}", json={"disabled": True}, headers=admin)
        assert client.get(fetch).status_code == 401
