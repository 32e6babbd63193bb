"""What gateways get and give: the snapshot and the usage."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from finmaas_core.clock import FakeClock
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.deps import Deps
from finmaas_serving.replica_door import derive_replica_secret

Headers = dict[str, str]
API = "/api/v1"


def record(deps: Deps, seq: int, **changes: Any) -> dict[str, Any]:
    with deps.sessions() as session:
        project = session.scalars(select(ProjectRow).order_by(ProjectRow.id).limit(1)).one()
    return {
        "seq": seq, "request_id": f"req-{seq}", "at": "2026-01-01T00:00:00Z", "key_id": "key_1",
        "project_id": project.id, "tenant_id": project.tenant_id, "endpoint_id": "ep_1", "model_version_id": "mdv_1",
        "path": "/v1/chat/completions", "status": 200, "stream": True, "prompt_tokens": 10, "completion_tokens": 5,
        "cached_tokens": 2, "ttft_ms": 9.5, "duration_ms": 40.0, "replica": "127.0.0.1:30000", "finish": "complete",
        "counted_by": "engine",
    } | changes  # fmt: skip


class TestSnapshot:
    def number(self, client: TestClient, gateway: Headers) -> int:
        return int(client.get(f"{API}/gateway/snapshot", headers=gateway).json()["number"])

    def make_key(self, client: TestClient, admin: Headers, **body: Any) -> dict[str, Any]:
        made: dict[str, Any] = client.post(
            f"{API}/api-keys", json={"project": "default/default", "name": "k", **body}, headers=admin
        ).json()
        return made

    def test_only_for_gateways(self, client: TestClient, admin: Headers, node: Headers) -> None:
        assert client.get(f"{API}/gateway/snapshot", headers=admin).status_code == 403
        assert client.get(f"{API}/gateway/snapshot", headers=node).status_code == 403
        assert client.get(f"{API}/gateway/snapshot").status_code == 401

    def test_tells_the_secret_that_opens_replicas(self, client: TestClient, gateway: Headers, deps: Deps) -> None:
        told = client.get(f"{API}/gateway/snapshot", headers=gateway).json()["replica_secret"]
        assert told == derive_replica_secret(deps.secrets.cluster_token)

    def test_nothing_newer_is_304(self, client: TestClient, gateway: Headers) -> None:
        after = self.number(client, gateway)
        answer = client.get(f"{API}/gateway/snapshot", params={"after": after}, headers=gateway)
        assert (answer.status_code, answer.content) == (304, b"")

    def test_a_waiting_gateway_hears_of_a_change(self, client: TestClient, admin: Headers, gateway: Headers) -> None:
        params = {"after": self.number(client, gateway), "wait_s": 30}
        heard: list[Any] = []
        waiter = threading.Thread(
            target=lambda: heard.append(client.get(f"{API}/gateway/snapshot", params=params, headers=gateway))
        )
        waiter.start()
        started = time.monotonic()
        made = self.make_key(client, admin)
        waiter.join(timeout=20)
        assert heard[0].json()["keys"][0]["key_id"] == made["id"]
        assert time.monotonic() - started < 10

    def test_holds_what_a_gateway_needs_of_a_key(self, client: TestClient, admin: Headers, gateway: Headers) -> None:
        made = self.make_key(client, admin, models=["faq", "faq"], expires_in_s=60)
        (key,) = client.get(f"{API}/gateway/snapshot", headers=gateway).json()["keys"]
        assert key["key_id"] == made["id"]
        assert (key["project"], key["models"], key["name"]) == ("default/default", ["faq"], "k")
        assert key["expires_at"] == 1767225600 + 60

    def test_leaves_out_keys_that_do_not_work(
        self, client: TestClient, admin: Headers, gateway: Headers, clock: FakeClock
    ) -> None:
        live, revoked = self.make_key(client, admin), self.make_key(client, admin)
        self.make_key(client, admin, expires_in_s=60)
        client.post(f"{API}/api-keys/{revoked['id']}/revoke", headers=admin)
        clock.advance(61)
        keys = client.get(f"{API}/gateway/snapshot", headers=gateway).json()["keys"]
        assert [key["key_id"] for key in keys] == [live["id"]]

    def test_keys_of_a_frozen_tenant_leave_and_come_back(
        self, client: TestClient, admin: Headers, gateway: Headers
    ) -> None:
        self.make_key(client, admin)
        counts, numbers = [], [self.number(client, gateway)]
        for state in ("frozen", "active"):
            client.patch(f"{API}/tenants/default", json={"state": state}, headers=admin)
            counts.append(len(client.get(f"{API}/gateway/snapshot", headers=gateway).json()["keys"]))
            numbers.append(self.number(client, gateway))
        assert counts == [0, 1]
        assert numbers == sorted(set(numbers))


class TestUsage:
    def deliver(self, client: TestClient, gateway: Headers, records: list[dict[str, Any]], of: str = "gw-1") -> Any:
        return client.post(f"{API}/gateway/usage", json={"gateway_id": of, "records": records}, headers=gateway)

    def test_a_repeated_delivery_counts_once(
        self, client: TestClient, deps: Deps, admin: Headers, gateway: Headers
    ) -> None:
        records = [record(deps, 1), record(deps, 2)]
        assert self.deliver(client, gateway, records).json() == {"accepted_through": 2}
        assert self.deliver(client, gateway, [*records, record(deps, 3)]).json() == {"accepted_through": 3}
        assert self.deliver(client, gateway, records, of="gw-2").json() == {"accepted_through": 2}
        assert self.deliver(client, gateway, []).json() == {"accepted_through": 3}
        (total,) = client.get(f"{API}/usage/summary", headers=admin).json()["items"]
        assert total == {
            "endpoint_id": "ep_1", "endpoint": None, "requests": 5, "prompt_tokens": 50, "completion_tokens": 25,
            "cached_tokens": 10,
        }  # fmt: skip

    def test_a_gateway_that_counts_anew_is_told(self, client: TestClient, deps: Deps, gateway: Headers) -> None:
        self.deliver(client, gateway, [record(deps, 1)])
        answer = self.deliver(client, gateway, [record(deps, 1, request_id="another")])
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")

    def test_is_listed_by_page_newest_first(
        self, client: TestClient, deps: Deps, admin: Headers, gateway: Headers
    ) -> None:
        self.deliver(client, gateway, [record(deps, seq) for seq in range(1, 6)])
        seen: list[str] = []
        params: dict[str, Any] = {"limit": 2, "project": "default/default"}
        while True:
            page = client.get(f"{API}/usage", params=params, headers=admin).json()
            seen += [item["request_id"] for item in page["items"]]
            if page["next_cursor"] is None:
                break
            params["cursor"] = page["next_cursor"]
        assert sorted(seen) == [f"req-{seq}" for seq in range(1, 6)]
        assert len(page["items"]) == 1

    def test_others_do_not_see_it(self, client: TestClient, deps: Deps, gateway: Headers, stranger: Headers) -> None:
        self.deliver(client, gateway, [record(deps, 1)])
        assert client.get(f"{API}/usage", headers=stranger).json()["items"] == []
        assert client.get(f"{API}/usage/summary", headers=stranger).json()["items"] == []

    @pytest.mark.parametrize("changes", [{"seq": 0}, {"prompt_tokens": -1}, {"at": "yesterday"}])
    def test_a_wrong_record_is_422(
        self, client: TestClient, deps: Deps, gateway: Headers, changes: dict[str, Any]
    ) -> None:
        assert self.deliver(client, gateway, [record(deps, 1) | changes]).status_code == 422

    def test_only_gateways_deliver(
        self, client: TestClient, deps: Deps, make_principal: Callable[..., Headers]
    ) -> None:
        assert self.deliver(client, make_principal("tenant-admin"), [record(deps, 1)]).status_code == 403
