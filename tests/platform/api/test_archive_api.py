"""What was kept for auditors: who may read it, what a reading leaves, and when it is forgotten."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import select, update

from finmaas_core.clock import FakeClock
from finmaas_platform.db.archive import ArchiveRecordRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.deps import Deps
from finmaas_platform.reconcile.provenance import ProvenanceSealer
from finmaas_platform.services.archive import read_archive_key
from finmaas_serving.gateway.archive import SUITE, binding

Headers = dict[str, str]
API = "/api/v1"


def keep(client: TestClient, gateway: Headers, deps: Deps, text: str = "my balance", days: int = 7) -> str:
    with deps.sessions() as session:
        project = session.scalars(select(ProjectRow).limit(1)).one()
    kept_id = "req_1.request"
    public = read_archive_key(deps.settings.paths).public_key()
    sealed = SUITE.encrypt(text.encode(), public, binding(kept_id, project.tenant_id, project.id))
    record = {
        "kept_id": kept_id, "part": "request", "request_id": "req_1", "tenant_id": project.tenant_id,
        "project_id": project.id, "key_id": "key_1", "endpoint_id": "ep_1", "at": deps.clock.now().timestamp(),
        "days": days, "sealed": base64.b64encode(sealed).decode(),
    }  # fmt: skip
    for _ in range(2):  # a repeated delivery changes nothing
        answer = client.post(f"{API}/gateway/archive", json={"records": [record]}, headers=gateway)
        assert answer.status_code == 204, answer.text
    return kept_id


def read(client: TestClient, headers: Headers, kept_id: str, reason: str = "complaint 7") -> Any:
    return client.post(f"{API}/archive/{kept_id}/readings", json={"reason": reason}, headers=headers)


class TestReading:
    def test_an_auditor_reads_and_the_audit_says_so(
        self, client: TestClient, admin: Headers, gateway: Headers, deps: Deps, make_principal: Callable[..., Headers]
    ) -> None:
        kept_id = keep(client, gateway, deps)
        auditor = make_principal(role="auditor", tenant="default")
        (listed,) = client.get(f"{API}/archive", headers=auditor).json()["items"]
        assert (listed["id"], "text" in listed, "sealed" in listed) == (kept_id, False, False)
        assert read(client, auditor, kept_id).json()["text"] == "my balance"
        events = client.get(f"{API}/audit-events", headers=admin).json()["items"]
        event = next(one for one in events if one["action"] == "archive.read")
        assert event["after"] == {"request_id": "req_1", "part": "request", "reason": "complaint 7"}
        assert "balance" not in str(events)

    def test_nobody_else_does(
        self, client: TestClient, admin: Headers, gateway: Headers, deps: Deps, make_principal: Callable[..., Headers]
    ) -> None:
        kept_id = keep(client, gateway, deps)
        for headers in (admin, make_principal(role="tenant-admin", tenant="default")):
            assert client.get(f"{API}/archive", headers=headers).status_code == 403
            assert read(client, headers, kept_id).status_code == 403

    def test_an_auditor_of_another_tenant_finds_nothing(
        self,
        client: TestClient,
        gateway: Headers,
        deps: Deps,
        make_tenant: Callable[[str], str],
        make_principal: Callable[..., Headers],
    ) -> None:
        kept_id = keep(client, gateway, deps)
        make_tenant("other")
        other = make_principal(role="auditor", tenant="other")
        assert client.get(f"{API}/archive", headers=other).json()["items"] == []
        assert read(client, other, kept_id).status_code == 404

    def test_a_reason_is_asked_for(
        self, client: TestClient, gateway: Headers, deps: Deps, make_principal: Callable[..., Headers]
    ) -> None:
        auditor = make_principal(role="auditor", tenant="default")
        assert read(client, auditor, keep(client, gateway, deps), reason="").status_code == 422

    def test_a_changed_record_is_not_opened(
        self, client: TestClient, gateway: Headers, deps: Deps, make_principal: Callable[..., Headers]
    ) -> None:
        kept_id = keep(client, gateway, deps)
        with deps.sessions() as session, session.begin():
            session.execute(update(ArchiveRecordRow).values(sealed=b"x" * 80))
        answer = read(client, make_principal(role="auditor", tenant="default"), kept_id)
        assert answer.json()["code"] == "corrupt"


class TestRetention:
    def test_what_was_kept_long_enough_is_forgotten(
        self, client: TestClient, gateway: Headers, deps: Deps, clock: FakeClock, make_principal: Callable[..., Headers]
    ) -> None:
        auditor = make_principal(role="auditor", tenant="default")
        kept_id = keep(client, gateway, deps, days=2)
        sealer = ProvenanceSealer(deps)
        sealer.prepare()
        clock.advance(86_400)
        sealer.run_once()
        assert read(client, auditor, kept_id).status_code == 200
        clock.advance(86_400)
        assert read(client, auditor, kept_id).status_code == 404
        sealer.run_once()
        assert client.get(f"{API}/archive", headers=auditor).json()["items"] == []


class TestSnapshot:
    def test_tells_the_public_key_alone(self, client: TestClient, gateway: Headers, deps: Deps) -> None:
        told = client.get(f"{API}/gateway/snapshot", headers=gateway).json()["archive_key"]
        key = read_archive_key(deps.settings.paths)
        assert told == key.public_key().public_bytes_raw().hex() != key.private_bytes_raw().hex()
