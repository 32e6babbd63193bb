from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from finmaas_core.errors import StoreFull
from finmaas_platform.db.base import unit_of_work
from finmaas_platform.db.blobs import VersionBlobRow
from finmaas_platform.deps import Deps
from finmaas_registry.store import MemoryStore

Headers = dict[str, str]
DATA = b"0123456789"
DIGEST = hashlib.sha256(DATA).hexdigest()
URL = f"/api/v1/blobs/{DIGEST}"


class TestPutBlob:
    def test_is_there_afterwards_and_may_be_repeated(self, client: TestClient, engineer: Headers) -> None:
        assert client.head(URL, headers=engineer).status_code == 404
        for _ in range(2):
            answer = client.put(URL, content=DATA, headers=engineer)
            assert (answer.status_code, answer.json()) == (201, {"digest": DIGEST, "size": 10})
        answer = client.head(URL, headers=engineer)
        assert (answer.status_code, answer.headers["Content-Length"]) == (200, "10")

    def test_refuses_other_bytes(self, client: TestClient, engineer: Headers, store: MemoryStore) -> None:
        answer = client.put(URL, content=b"other", headers=engineer)
        assert (answer.status_code, answer.json()["code"]) == (422, "corrupt")
        assert [*store.list()] == []

    def test_refuses_too_long_a_body(self, client: TestClient, engineer: Headers, deps: Deps) -> None:
        deps.settings.max_blob_bytes = 9
        assert "longer than 9 bytes" in client.put(URL, content=DATA, headers=engineer).json()["detail"]
        chunked = client.put(URL, content=iter([DATA[:5], DATA[5:]]), headers=engineer)
        assert "longer than 9 bytes" in chunked.json()["detail"]

    def test_a_full_store_is_507(
        self, client: TestClient, engineer: Headers, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise StoreFull("no room")

        monkeypatch.setattr(store, "put_expected", full)
        answer = client.put(URL, content=DATA, headers=engineer)
        assert (answer.status_code, answer.json()["code"]) == (507, "store_full")
        assert client.head(URL, headers=engineer).status_code == 404

    def test_is_for_those_who_make_things(self, client: TestClient, make_principal: Callable[..., Headers]) -> None:
        assert client.put(URL, content=DATA, headers=make_principal("auditor")).status_code == 403
        assert client.put(URL, content=DATA).status_code == 401

    def test_refuses_what_is_no_digest(self, client: TestClient, engineer: Headers) -> None:
        assert client.put("/api/v1/blobs/abc", content=DATA, headers=engineer).status_code == 422


class TestGetBlob:
    @pytest.mark.parametrize(
        ("asked", "status", "content"),
        [
            (None, 200, DATA),
            ("bytes=4-", 206, b"456789"),
            ("bytes=4-5", 206, b"45"),
            ("bytes=9-99", 206, b"9"),
            ("bytes=10-", 416, b""),
            ("lines=1-2", 200, DATA),
        ],
    )
    def test_gives_bytes_or_a_range(
        self, client: TestClient, engineer: Headers, asked: str | None, status: int, content: bytes
    ) -> None:
        client.put(URL, content=DATA, headers=engineer)
        answer = client.get(URL, headers=engineer | ({"Range": asked} if asked else {}))
        assert (answer.status_code, answer.content) == (status, content)
        assert answer.headers["Content-Length"] == str(len(content))

    def test_another_tenants_blob_is_not_there(self, client: TestClient, engineer: Headers, stranger: Headers) -> None:
        client.put(URL, content=DATA, headers=engineer)
        assert client.get(URL, headers=stranger).status_code == 404
        assert client.head(URL, headers=stranger).status_code == 404
        # Only who can show the bytes gets to see them.
        client.put(URL, content=DATA, headers=stranger)
        assert client.get(URL, headers=stranger).content == DATA

    def test_a_node_sees_the_files_of_models_only(
        self, client: TestClient, engineer: Headers, node: Headers, gateway: Headers, deps: Deps
    ) -> None:
        client.put(URL, content=DATA, headers=engineer)
        with unit_of_work(deps.sessions) as session:
            session.add(VersionBlobRow(version_id="dsv_1", digest=DIGEST, tenant_id="t", kind="dataset"))
        assert client.get(URL, headers=node).status_code == 404
        with unit_of_work(deps.sessions) as session:
            session.add(VersionBlobRow(version_id="mdv_1", digest=DIGEST, tenant_id="t", kind="model"))
        assert client.get(URL, headers=node).content == DATA
        assert client.get(URL, headers=gateway).status_code == 404
        assert client.put(URL, content=DATA, headers=node).status_code == 403
