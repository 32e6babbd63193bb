"""A store that hangs holds no database transaction: whatever waits for it, others go on reading and writing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient
from model_files import FILES, put
from sqlalchemy import Engine, update

from finmaas_platform.db.base import unit_of_work
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.deps import Deps
from finmaas_registry.store import MemoryStore

Headers = dict[str, str]
Request = Callable[[], Any]
MODELS = "/api/v1/models/default/default"
ROWS = "text,label,who\n" + "".join(f"what about thing number {n},a,c{n}\n" for n in range(40))


class Hanging(MemoryStore):
    """Answers nothing between `hang` and `release`."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answers = threading.Event(), threading.Event()
        self.release()

    def hang(self) -> None:
        self.asked.clear()
        self.answers.clear()

    def release(self) -> None:
        self.answers.set()

    def open(self, digest: str, offset: int = 0) -> Iterator[bytes]:
        self.asked.set()
        assert self.answers.wait(60), "the test forgot to release the store"
        return super().open(digest, offset)


@pytest.fixture
def store() -> Hanging:
    return Hanging()


def register(client: TestClient, who: Headers) -> Request:
    files = put(client, who, FILES)
    return lambda: client.post(f"{MODELS}/tiny/versions", json={"files": files}, headers=who)


def import_version(client: TestClient, who: Headers) -> Request:
    body = {"source": "archive", "files": put(client, who, FILES), "document": {}}
    return lambda: client.post(f"{MODELS}/tiny/imports", json=body, headers=who)


def release_draft(client: TestClient, who: Headers) -> Request:
    client.post("/api/repos/create", json={"name": "default.tiny", "organization": "default"}, headers=who)
    for path, content in FILES.items():
        client.put(f"/mlflow-artifacts/artifacts/models/default/tiny/draft/{path}", content=content, headers=who)
    return lambda: client.post("/api/v1/drafts/model/default/default/tiny/release", json={}, headers=who)


def queue_job(client: TestClient, who: Headers) -> Request:
    import_rows(client, who)
    assert register(client, who)().status_code == 201
    spec = {"base": "tiny@1", "dataset": "intents@1", "output": "tuned"}
    body = {"project": "default/default", "kind": "training", "spec": spec}
    return lambda: client.post("/api/v1/jobs", json=body, headers=who | {"Idempotency-Key": "once"})


def trace_row(client: TestClient, who: Headers) -> Request:
    import_rows(client, who)
    return lambda: client.post("/api/v1/dataset-rows/trace", json={"row_id": "c1"}, headers=who)


def forget_row(client: TestClient, who: Headers) -> Request:
    import_rows(client, who)
    body = {"row_id": "c1", "reason": "asked for it"}
    return lambda: client.post("/api/v1/deletion-requests", json=body, headers=who)


def import_rows(client: TestClient, who: Headers) -> None:
    given = {"filename": "rows.csv", "splits": "0.6,0.2,0.2", "id_column": "who"}
    answer = client.post("/api/v1/datasets/default/default/intents/versions", params=given, content=ROWS, headers=who)
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("prepare", [register, import_version, release_draft, queue_job, trace_row, forget_row])
def test_no_transaction_waits_for_the_store(
    client: TestClient, engineer: Headers, deps: Deps, store: Hanging, prepare: Callable[..., Request]
) -> None:
    send = prepare(client, engineer)
    engine = deps.sessions.kw["bind"]
    assert isinstance(engine, Engine)
    with ThreadPoolExecutor(1) as pool:
        store.hang()
        answer = pool.submit(send)
        try:
            assert store.asked.wait(60)
            assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
            with unit_of_work(deps.sessions) as session:
                session.execute(update(ProjectRow).values(cost_centre="meanwhile"))
        finally:
            store.release()
        assert answer.result(60).status_code in (200, 201), answer.result().text


class TestWhatChangedMeanwhile:
    def test_a_draft_that_was_committed_to_is_not_released(
        self, client: TestClient, engineer: Headers, store: Hanging
    ) -> None:
        send = release_draft(client, engineer)
        with ThreadPoolExecutor(1) as pool:
            store.hang()
            answer = pool.submit(send)
            assert store.asked.wait(60)
            url = "/mlflow-artifacts/artifacts/models/default/tiny/draft/notes.txt"
            assert client.put(url, content=b"more", headers=engineer).status_code == 200
            store.release()
            refused = answer.result(60)
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
        assert "committed to at the same time" in refused.json()["detail"]
        assert send().status_code == 201

    def test_a_replay_asks_no_store(self, client: TestClient, engineer: Headers, store: Hanging) -> None:
        send = queue_job(client, engineer)
        first = send().json()["id"]
        store.asked.clear()
        assert (send().json()["id"], store.asked.is_set()) == (first, False)
