"""API keys over REST: scopes, rotation with overlap, revoking many."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from finmaas_core.clock import FakeClock

Headers = dict[str, str]
API = "/api/v1"


def make(client: TestClient, headers: Headers, **body: Any) -> dict[str, Any]:
    answer = client.post(f"{API}/api-keys", json={"project": "default/default", "name": "k", **body}, headers=headers)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def known_to_gateways(client: TestClient, gateway: Headers) -> dict[str, dict[str, Any]]:
    keys = client.get(f"{API}/gateway/snapshot", headers=gateway).json()["keys"]
    return {key["key_id"]: key for key in keys}


class TestScopes:
    def test_reach_gateways(self, client: TestClient, admin: Headers, gateway: Headers) -> None:
        made = make(client, admin, methods=["embeddings", "embeddings"], networks=["10.1.0.0/16", "2001:db8::/32"])
        assert (made["methods"], made["networks"]) == (["embeddings"], ["10.1.0.0/16", "2001:db8::/32"])
        known = known_to_gateways(client, gateway)[made["id"]]
        assert (known["methods"], known["networks"]) == (["embeddings"], ["10.1.0.0/16", "2001:db8::/32"])

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({"methods": []}, "`methods` is empty"),
            ({"methods": ["dance"]}, "'dance' is no method"),
            ({"networks": ["10.1.0.0/33"]}, "is no network"),
            ({"networks": ["10.1.2.3/16"]}, "is no network"),
        ],
    )
    def test_what_cannot_be_used_is_named(
        self, client: TestClient, admin: Headers, body: dict[str, Any], message: str
    ) -> None:
        body = {"project": "default/default", "name": "k", **body}
        answer = client.post(f"{API}/api-keys", json=body, headers=admin)
        assert answer.status_code == 422
        assert message in answer.json()["detail"]


class TestRotation:
    def test_both_work_until_the_overlap_is_over(
        self, client: TestClient, admin: Headers, gateway: Headers, clock: FakeClock
    ) -> None:
        old = make(client, admin, models=["chat"], networks=["10.0.0.0/8"], expires_in_s=90 * 86_400)
        clock.advance(10 * 86_400)
        answer = client.post(f"{API}/api-keys/{old['id']}/rotate", json={"overlap_s": 3600}, headers=admin)
        new = answer.json()
        assert answer.status_code == 201
        assert new["key"] not in (None, old["key"])
        assert (new["models"], new["networks"], new["name"]) == (["chat"], ["10.0.0.0/8"], "k")
        assert set(known_to_gateways(client, gateway)) >= {old["id"], new["id"]}
        clock.advance(3601)
        assert old["id"] not in known_to_gateways(client, gateway)
        assert new["id"] in known_to_gateways(client, gateway)
        clock.advance(89 * 86_400)
        assert new["id"] in known_to_gateways(client, gateway)  # it lasts as long as the old one did

    def test_a_key_never_lasts_longer_for_being_rotated(
        self, client: TestClient, admin: Headers, clock: FakeClock
    ) -> None:
        old = make(client, admin, expires_in_s=600)
        client.post(f"{API}/api-keys/{old['id']}/rotate", json={"overlap_s": 86_400}, headers=admin)
        listed = client.get(f"{API}/api-keys", headers=admin).json()["items"]
        assert next(key for key in listed if key["id"] == old["id"])["expires_at"] == old["expires_at"]

    def test_a_key_that_has_ended_is_not_rotated(self, client: TestClient, admin: Headers) -> None:
        old = make(client, admin)
        client.post(f"{API}/api-keys/{old['id']}/revoke", headers=admin)
        answer = client.post(f"{API}/api-keys/{old['id']}/rotate", json={}, headers=admin)
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


class TestRevokeMany:
    def test_a_dry_run_ends_nothing(
        self, client: TestClient, admin: Headers, gateway: Headers, clock: FakeClock
    ) -> None:
        old = make(client, admin)
        clock.advance(timedelta(days=91).total_seconds())
        young = make(client, admin)
        body = {"older_than_s": 90 * 86_400}
        dry = client.post(f"{API}/api-keys/revoke", json={**body, "dry_run": True}, headers=admin).json()
        assert [key["id"] for key in dry] == [old["id"]]
        assert old["id"] in known_to_gateways(client, gateway)
        assert client.post(f"{API}/api-keys/revoke", json=body, headers=admin).json()[0]["revoked_at"] is not None
        assert set(known_to_gateways(client, gateway)) & {old["id"], young["id"]} == {young["id"]}
        assert client.post(f"{API}/api-keys/revoke", json=body, headers=admin).json() == []

    def test_only_keys_in_sight_end_and_something_must_narrow_the_choice(
        self, client: TestClient, admin: Headers, gateway: Headers, make_principal: Callable[..., Headers]
    ) -> None:
        mine = make(client, admin)
        client.post(f"{API}/tenants", json={"name": "other"}, headers=admin)
        stranger = make_principal(role="tenant-admin", tenant="other")
        assert client.post(f"{API}/api-keys/revoke", json={"older_than_s": 0}, headers=stranger).json() == []
        assert client.post(f"{API}/api-keys/revoke", json={}, headers=admin).status_code == 422
        assert mine["id"] in known_to_gateways(client, gateway)
