"""Gateways as their operators see them, over REST, the CLI's own view included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi.testclient import TestClient

from finmaas_core.clock import FakeClock
from finmaas_platform.deps import Deps
from finmaas_serving.gateway.schemas import Line
from finmaas_serving.gateway.tally import Tally, derive_metrics_token

Headers = dict[str, str]
API = "/api/v1"


def tell(client: TestClient, headers: Headers, name: str = "gw-1", **changes: Any) -> int:
    line = Line("default/default/chat", "default/default", by_status={200: 3}, completion_tokens=30)
    other = Line("other/risk/chat", "other/risk", by_status={200: 9})
    lines = [{field: getattr(one, field) for field in Line.__struct_fields__} for one in (line, other)]
    report = {
        "started_at": Tally().started_at, "snapshot": 4, "snapshot_age_s": 0.1, "replicas": 1, "running": 2,
        "connections": 5, "usage_waiting": 7, "draining": False, "refused": {401: 6}, "lines": lines, **changes,
    }  # fmt: skip
    body = {"gateway_id": name, "report": report}
    return client.post(f"{API}/gateway/reports", json=body, headers=headers).status_code


class TestReports:
    def test_the_newest_replaces_the_one_before(self, client: TestClient, admin: Headers, gateway: Headers) -> None:
        assert tell(client, gateway) == 204
        assert tell(client, gateway, running=9) == 204
        (seen,) = client.get(f"{API}/gateways", headers=admin).json()["items"]
        assert (seen["gateway_id"], seen["state"], seen["running"], seen["refused"]) == ("gw-1", "ready", 9, {"401": 6})

    def test_only_gateways_report(self, client: TestClient, admin: Headers) -> None:
        assert tell(client, admin) == 403

    def test_what_cannot_be_read_is_refused(self, client: TestClient, gateway: Headers) -> None:
        assert tell(client, gateway, lines=[{"endpoint": 1}]) == 422

    def test_a_tenant_sees_its_own_lines_and_no_totals(
        self, client: TestClient, gateway: Headers, make_principal: Callable[..., Headers]
    ) -> None:
        tell(client, gateway)
        headers = make_principal(role="tenant-admin", tenant="default")
        (seen,) = client.get(f"{API}/gateways", headers=headers).json()["items"]
        assert [line["project"] for line in seen["lines"]] == ["default/default"]
        assert (seen["refused"], seen["running"], seen["connections"], seen["usage_waiting"]) == ({}, 0, 0, 0)

    def test_one_that_falls_silent_is_said_to_be_and_later_forgotten(
        self, client: TestClient, admin: Headers, gateway: Headers, clock: FakeClock
    ) -> None:
        tell(client, gateway)
        clock.advance(11)
        assert client.get(f"{API}/gateways", headers=admin).json()["items"][0]["state"] == "silent"
        clock.advance(7200)
        tell(client, gateway, "gw-2")
        assert [one["gateway_id"] for one in client.get(f"{API}/gateways", headers=admin).json()["items"]] == ["gw-2"]


class TestMetrics:
    def test_want_their_own_token(self, client: TestClient, admin: Headers, gateway: Headers, deps: Deps) -> None:
        tell(client, gateway)
        token = derive_metrics_token(deps.secrets.gateway_token)
        answer = client.get(f"{API}/metrics", headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.headers["content-type"][:10]) == (200, "text/plain")
        assert 'finmaas_requests_total{endpoint="default/default/chat"' in answer.text
        assert client.get(f"{API}/metrics", headers=admin).status_code == 401
        assert client.get(f"{API}/metrics").status_code == 401
        assert client.get(f"{API}/gateways", headers={"Authorization": f"Bearer {token}"}).status_code == 401
