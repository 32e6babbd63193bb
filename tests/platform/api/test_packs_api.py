"""Many small blobs in one request, both ways."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from fastapi.testclient import TestClient

from finmaas_platform.deps import Deps
from finmaas_registry.packs import Packed, read_pack, write_pack
from finmaas_registry.store import MemoryStore

Headers = dict[str, str]
DATA = [f"passage {n}".encode() for n in range(30)] + [b""]
DIGESTS = [hashlib.sha256(one).hexdigest() for one in DATA]
PACK = b"".join(write_pack(map(Packed, DIGESTS, DATA)))


def put(client: TestClient, headers: Headers, body: bytes = PACK) -> Any:
    return client.post("/api/v1/blobs/pack", content=body, headers=headers)


def get(client: TestClient, headers: Headers, digests: list[str]) -> Any:
    return client.post("/api/v1/blobs/unpack", json={"digests": digests}, headers=headers)


def test_go_and_come_back_and_may_be_sent_again(client: TestClient, engineer: Headers) -> None:
    for _ in range(2):
        answer = put(client, engineer)
        assert (answer.status_code, answer.json()) == (201, {"blobs": len(DATA)})
    assert read_pack(get(client, engineer, DIGESTS[::-1]).content) == [*map(Packed, DIGESTS, DATA)][::-1]
    assert client.get(f"/api/v1/blobs/{DIGESTS[3]}", headers=engineer).content == DATA[3]
    assert client.post("/api/v1/blobs/missing", json={"digests": DIGESTS}, headers=engineer).json() == {"missing": []}


@pytest.mark.parametrize("body", [PACK[:-1], PACK[:40] + b"X" + PACK[41:]])
def test_a_bad_pack_stores_nothing(client: TestClient, engineer: Headers, store: MemoryStore, body: bytes) -> None:
    assert put(client, engineer, body).status_code in (400, 409, 422)
    assert [*store.list()] == []


def test_another_tenant_must_send_the_bytes_itself(client: TestClient, engineer: Headers, stranger: Headers) -> None:
    put(client, engineer)
    assert get(client, stranger, DIGESTS).status_code == 404
    assert client.get(f"/api/v1/blobs/{DIGESTS[0]}", headers=stranger).status_code == 404
    put(client, stranger)
    assert get(client, stranger, DIGESTS).status_code == 200


def test_a_file_that_lies_as_blocks_stays_so(client: TestClient, engineer: Headers, deps: Deps) -> None:
    whole = DATA[0] + DATA[1]
    digest = hashlib.sha256(whole).hexdigest()
    put(client, engineer)
    blocks = [{"digest": DIGESTS[n], "size": len(DATA[n])} for n in (0, 1)]
    assert client.post(f"/api/v1/blobs/{digest}/compose", json={"blocks": blocks}, headers=engineer).status_code == 201
    assert put(client, engineer, b"".join(write_pack([Packed(digest, whole)]))).status_code == 201
    assert deps.store.inner.stat(digest) is None
    assert read_pack(get(client, engineer, [digest]).content) == [Packed(digest, whole)]


def test_large_ones_and_too_many_are_refused(client: TestClient, engineer: Headers) -> None:
    large = b"x" * (300 << 10)
    digest = hashlib.sha256(large).hexdigest()
    client.put(f"/api/v1/blobs/{digest}", content=large, headers=engineer)
    answer = get(client, engineer, [digest])
    assert (answer.status_code, "get it by itself" in answer.json()["detail"]) == (422, True)
    assert get(client, engineer, DIGESTS * 20).status_code == 422


def test_who_may_not_put_may_not_put_packs(client: TestClient, admin: Headers) -> None:
    made = client.post("/api/v1/principals", json={"name": "a", "role": "auditor", "tenant": "default"}, headers=admin)
    token = client.post("/api/v1/access-tokens", json={"principal_id": made.json()["id"]}, headers=admin).json()
    assert put(client, {"Authorization": f"Bearer {token['token']}"}).status_code == 403
    assert put(client, {}).status_code == 401
