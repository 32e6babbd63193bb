"""The application as a whole: it answers, knows its callers, tells errors as problems, and describes itself."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from finmaas_core.errors import FinmaasError, all_error_classes
from finmaas_platform.api import middleware
from finmaas_platform.api.dependencies import SessionDep
from finmaas_platform.api.problems import HTTP_STATUS
from finmaas_platform.app import create_app, describe_app
from finmaas_platform.db.snapshots import SnapshotCounterRow
from finmaas_platform.deps import Deps

Headers = dict[str, str]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def app(deps: Deps) -> FastAPI:
    """One of its own, because tests here add routes to it."""
    return create_app(deps.settings, deps)


class TestHealth:
    def test_needs_no_token(self, client: TestClient) -> None:
        answer = client.get("/api/v1/health")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})

    def test_is_503_without_a_database(self, client: TestClient, deps: Deps) -> None:
        SnapshotCounterRow.metadata.drop_all(deps.sessions.kw["bind"])
        answer = client.get("/api/v1/health")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


class TestWhoami:
    def test_tells_the_principal(self, client: TestClient, engineer: Headers) -> None:
        answer = client.get("/api/v1/whoami", headers=engineer).json()
        assert (answer["role"], answer["kind"], answer["tenant"]) == ("ml-engineer", "principal", "default")

    def test_knows_nodes_and_gateways(self, client: TestClient, node: Headers, gateway: Headers) -> None:
        assert client.get("/api/v1/whoami", headers=node).json()["kind"] == "node"
        assert client.get("/api/v1/whoami", headers=gateway).json()["kind"] == "gateway"

    def test_without_a_token_is_401(self, client: TestClient) -> None:
        answer = client.get("/api/v1/whoami")
        assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")


class TestProblems:
    @pytest.mark.parametrize("cls", all_error_classes())
    def test_every_error_has_a_status(self, cls: type[FinmaasError]) -> None:
        assert 400 <= HTTP_STATUS[cls.code] < 600

    def test_the_table_has_no_code_of_nobody(self) -> None:
        assert set(HTTP_STATUS) == {cls.code for cls in all_error_classes()}

    @pytest.mark.parametrize("cls", all_error_classes())
    def test_each_arrives_as_a_problem(self, app: FastAPI, client: TestClient, cls: type[FinmaasError]) -> None:
        @app.get("/boom")
        def boom() -> None:
            raise cls("it broke; mend it", line=7)

        answer = client.get("/boom", headers={"X-Request-ID": "abc-1"})
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["X-Request-ID"] == "abc-1"
        problem = answer.json()
        assert problem.pop("title")
        assert problem == {
            "type": f"urn:finmaas:problem:{cls.code}", "status": HTTP_STATUS[cls.code], "code": cls.code,
            "detail": "it broke; mend it", "line": 7, "request_id": "abc-1",
        }  # fmt: skip

    def test_a_fault_of_ours_is_a_problem_that_tells_no_secret(self, app: FastAPI, client: TestClient) -> None:
        @app.get("/boom")
        def boom() -> None:
            raise RuntimeError("password=hunter2")

        answer = client.get("/boom")
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
        assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
        assert "hunter2" not in answer.text

    @pytest.mark.parametrize(
        ("method", "path", "status"), [("GET", "/nowhere", 404), ("DELETE", "/api/v1/health", 405)]
    )
    def test_the_frameworks_own_refusals_too(self, client: TestClient, method: str, path: str, status: int) -> None:
        answer = client.request(method, path)
        assert answer.status_code == status
        assert answer.headers["Content-Type"] == "application/problem+json"

    def test_a_request_that_does_not_fit_names_the_field(self, client: TestClient, admin: Headers) -> None:
        answer = client.post("/api/v1/tenants", json={"name": "x", "colour": "red"}, headers=admin)
        assert answer.status_code == 422
        assert "body.colour" in answer.json()["detail"]

    def test_a_strange_request_id_is_not_echoed(self, client: TestClient) -> None:
        answer = client.get("/api/v1/health", headers={"X-Request-ID": "a b\tc"})
        assert answer.headers["X-Request-ID"].startswith("req_")


class TestCommit:
    """A 2xx means: it is in the database."""

    @pytest.mark.parametrize(
        ("fault", "status", "code"),
        [
            (RuntimeError("commit failed"), 500, "internal"),
            (OperationalError("COMMIT", {}, Exception("database or disk is full")), 507, "store_full"),
            (OperationalError("COMMIT", {}, Exception("server closed the connection")), 503, "unavailable"),
        ],
    )
    def test_a_failed_one_is_never_a_success(
        self, client: TestClient, deps: Deps, admin: Headers, fault: Exception, status: int, code: str
    ) -> None:
        def fail(_session: Session) -> None:
            raise fault

        event.listen(deps.sessions, "before_commit", fail)
        answer = client.post("/api/v1/tenants", json={"name": "lost"}, headers=admin)
        event.remove(deps.sessions, "before_commit", fail)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert client.get("/api/v1/tenants/lost", headers=admin).status_code == 404

    def test_a_refusal_leaves_nothing(self, app: FastAPI, client: TestClient, deps: Deps) -> None:
        @app.post("/half")
        def half(session: SessionDep) -> None:
            session.add(SnapshotCounterRow(id=99, number=1))
            session.flush()
            raise FinmaasError("no")

        assert client.post("/half").status_code == 500
        with deps.sessions() as session:
            assert session.get(SnapshotCounterRow, 99) is None

    def test_reading_waits_for_no_writer(self, client: TestClient, deps: Deps, admin: Headers) -> None:
        with deps.sessions() as writer, writer.begin():
            writer.add(SnapshotCounterRow(id=99, number=1))
            writer.flush()
            assert client.get("/api/v1/tenants", headers=admin).status_code == 200


class TestIdempotency:
    def post(self, client: TestClient, headers: Headers, key: str, name: str = "twice") -> tuple[int, dict[str, str]]:
        answer = client.post("/api/v1/tenants", json={"name": name}, headers=headers | {"Idempotency-Key": key})
        return answer.status_code, answer.json()

    def test_a_repeat_answers_the_object(self, client: TestClient, admin: Headers) -> None:
        assert self.post(client, admin, "k1") == self.post(client, admin, "k1")
        events = client.get("/api/v1/audit-events?action=tenant.create", headers=admin).json()["items"]
        assert len(events) == 1

    def test_a_repeat_never_shows_a_secret_again(self, client: TestClient, admin: Headers, deps: Deps) -> None:
        body = {"project": "default/default", "name": "k"}
        headers = admin | {"Idempotency-Key": "k1"}
        first = client.post("/api/v1/api-keys", json=body, headers=headers)
        again = client.post("/api/v1/api-keys", json=body, headers=headers)
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.json() == first.json() | {"key": None}
        dump = subprocess.run(
            ["strings", str(deps.settings.paths.database)], capture_output=True, text=True, check=False
        )
        assert first.json()["key"] not in dump.stdout

    def test_another_body_is_409(self, client: TestClient, admin: Headers) -> None:
        self.post(client, admin, "k1")
        status, problem = self.post(client, admin, "k1", name="other-name")
        assert (status, problem["code"]) == (409, "conflict")

    def test_keys_of_two_principals_are_two(
        self, client: TestClient, admin: Headers, make_principal: Callable[..., Headers]
    ) -> None:
        second = make_principal("platform-admin", tenant=None, name="second")
        assert self.post(client, admin, "k1")[0] == 201
        assert self.post(client, second, "k1")[1]["code"] == "already_exists"

    def test_a_failed_write_may_be_tried_again(self, client: TestClient, admin: Headers) -> None:
        assert self.post(client, admin, "k1", name="default")[0] == 409
        assert self.post(client, admin, "k1", name="default")[1]["code"] == "already_exists"
        assert self.post(client, admin, "k1", name="free")[0] == 201


class TestPaging:
    @pytest.mark.parametrize("cursor", ["x", "!!", "bnVsbA", "W10", "é"])
    def test_a_made_up_cursor_is_422(self, client: TestClient, admin: Headers, cursor: str) -> None:
        answer = client.get("/api/v1/tenants", params={"cursor": cursor}, headers=admin)
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_input")

    @pytest.mark.parametrize("limit", [0, -1, 501])
    def test_a_limit_out_of_bounds_is_422(self, client: TestClient, admin: Headers, limit: int) -> None:
        assert client.get("/api/v1/tenants", params={"limit": limit}, headers=admin).status_code == 422


class TestDescription:
    def test_reads_well(self) -> None:
        document = describe_app()
        operations = [(path, operation) for path, ops in document["paths"].items() for operation in ops.values()]
        ids = [operation["operationId"] for _, operation in operations]
        assert len(ids) == len(set(ids))
        for path, operation in operations:
            assert operation.get("tags"), path
            assert operation.get("summary"), path
            assert operation.get("description"), path
            assert "application/problem+json" in operation["responses"]["default"]["content"], path
        assert "HTTPValidationError" not in json.dumps(document)

    def test_the_file_in_the_documentation_is_current(self, tmp_path: Path) -> None:
        target = tmp_path / "openapi.json"
        command = [sys.executable, "-m", "finmaas_platform.openapi", str(target)]
        subprocess.run(command, check=True, capture_output=True)
        written = (ROOT / "docs" / "reference" / "openapi.json").read_text(encoding="utf-8")
        assert written == target.read_text(encoding="utf-8"), "run: python -m finmaas_platform.openapi"


class TestBodies:
    def test_a_long_one_is_refused_before_it_is_held_whole_and_uploads_are_not(
        self, client: TestClient, admin: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(middleware, "MAX_BODY_BYTES", 1000)
        for headers in ({}, admin):  # it is refused before anybody asks who sends it
            answer = client.post("/api/v1/tenants", json={"name": "a" * 2000}, headers=headers)
            assert (answer.status_code, answer.json()["status"]) == (413, 413)
        text = b"x" * 5000
        url = f"/api/v1/blobs/{hashlib.sha256(text).hexdigest()}"
        assert client.put(url, content=text, headers=admin).is_success
