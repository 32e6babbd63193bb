"""The application as a whole: it answers, it knows its callers."""

from __future__ import annotations

from fastapi.testclient import TestClient


class TestHealth:
    def test_needs_no_token(self, client: TestClient) -> None:
        answer = client.get("/api/v1/health")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


class TestWhoami:
    def test_tells_the_principal(self, client: TestClient, admin: dict[str, str]) -> None:
        answer = client.get("/api/v1/whoami", headers=admin).json()
        assert answer["name"] == "admin"
        assert answer["role"] == "platform-admin"

    def test_knows_nodes_and_gateways(self, client: TestClient, node: dict[str, str], gateway: dict[str, str]) -> None:
        assert client.get("/api/v1/whoami", headers=node).json()["kind"] == "node"
        assert client.get("/api/v1/whoami", headers=gateway).json()["kind"] == "gateway"
