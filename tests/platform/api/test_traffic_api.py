"""Traffic plans, outside providers and terms of tenants over REST: who may, what is refused, what gateways get."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from finmaas_core.clock import FakeClock
from finmaas_core.ids import new_id
from finmaas_core.sealing import open_secret
from finmaas_platform.db.base import unit_of_work
from finmaas_platform.db.endpoints import EndpointRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.usage_records import UsageRecordRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.traffic import Sight, TrafficPlan, resolve_terms
from finmaas_platform.reconcile.canaries import CanaryReconciler
from finmaas_serving.gateway.external import PURPOSE
from finmaas_serving.gateway.snapshot import Snapshot, read_snapshot

Headers = dict[str, str]
API = "/api/v1"
PLAN = f"{API}/traffic/default/default/chat"


@pytest.fixture
def endpoints(deps: Deps) -> dict[str, str]:
    """Three live endpoints of `default/default`; their ids by name."""
    made = {}
    with unit_of_work(deps.sessions) as session:
        project = session.scalars(select(ProjectRow)).one()
        for name in ("chat", "chat-v2", "small"):
            made[name] = new_id("endpoint")
            row = EndpointRow(
                id=made[name], tenant_id=project.tenant_id, project=project, project_id=project.id, name=name,
                model_version_id="mdv_1", model_ref="default/default/m@1", replicas=1, state="ready", reason="",
                engine={"max_num_seqs": 64} if name == "small" else {}, created_at=deps.clock.now(),
                created_by="test", version=1,
            )  # fmt: skip
            session.add(row)
    return made


@pytest.fixture
def held(client: TestClient, gateway: Headers) -> Callable[[], Snapshot]:
    """The snapshot as a gateway reads it."""
    return lambda: read_snapshot(client.get(f"{API}/gateway/snapshot", headers=gateway).content)


def use(deps: Deps, endpoints: dict[str, str], target: str, status: int = 200, **more: Any) -> None:
    """One usage record of a request to `chat` that `target` answered."""
    with unit_of_work(deps.sessions) as session:
        project = session.scalars(select(ProjectRow)).one()
        values: dict[str, Any] = {
            "id": new_id("usage_record"), "gateway_id": "gw", "seq": id(object()) % 2**40, "request_id": new_id("job"),
            "at": deps.clock.now(), "key_id": "key_1", "project_id": project.id, "tenant_id": project.tenant_id,
            "endpoint_id": endpoints["chat"], "model_version_id": "mdv_1", "path": "/v1/chat/completions",
            "status": status, "stream": False, "prompt_tokens": 5, "completion_tokens": 5, "cached_tokens": 0,
            "ttft_ms": 10.0, "duration_ms": 10.0, "replica": "r", "finish": "complete", "counted_by": "engine",
            "target_id": endpoints[target], "traffic": "canary" if target == "chat-v2" else "split", "attempts": 1,
        }  # fmt: skip
        values["seq"] = int.from_bytes(values["id"][-6:].encode()) % 2**40
        session.add(UsageRecordRow(**{**values, **more}))


class TestPlan:
    def test_reaches_gateways_by_id_and_is_audited(
        self, client: TestClient, engineer: Headers, admin: Headers, endpoints: dict[str, str],
        held: Callable[[], Snapshot],
    ) -> None:  # fmt: skip
        plan = {
            "split": [{"endpoint": "chat", "weight": 9}, {"endpoint": "small", "weight": 1}],
            "canary": {"endpoint": "chat-v2", "percent": 5, "max_latency_ms": 800},
            "fallbacks": [{"endpoint": "small"}],
            "sharing": {"reserved": [{"tenant": "default", "slots": 4, "overflow": "refuse"}]},
        }
        made = client.put(PLAN, json=plan, headers=engineer)
        assert made.status_code == 200, made.text
        route = held().routes[endpoints["chat"]]
        traffic = route.traffic
        assert traffic is not None
        assert [(one.endpoint_id, one.weight) for one in traffic.split] == [
            (endpoints["chat"], 9.0),
            (endpoints["small"], 1.0),
        ]
        assert traffic.canary is not None
        assert (traffic.canary.endpoint_id, traffic.canary.weight) == (endpoints["chat-v2"], 0.05)
        assert traffic.canary.bounds.max_latency_ms == 800
        assert [one.endpoint_id for one in traffic.fallbacks] == [endpoints["small"]]
        assert (route.terms.concurrency, route.terms.reserved[0].slots) == (256, 4)
        assert held().routes[endpoints["small"]].terms.concurrency == 64  # its engine's max_num_seqs
        assert held().routes[endpoints["small"]].traffic is None
        actions = [e["action"] for e in client.get(f"{API}/audit-events", headers=admin).json()["items"]]
        assert actions[0] == "traffic.set"
        assert client.delete(PLAN, headers=engineer).status_code == 204
        assert held().routes[endpoints["chat"]].traffic is None
        assert client.get(PLAN, headers=engineer).status_code == 404

    @pytest.mark.usefixtures("endpoints")
    @pytest.mark.parametrize(
        ("plan", "status", "message"),
        [
            ({"split": [{"endpoint": "gone", "weight": 1}]}, 404, "no live endpoint gone"),
            ({"fallbacks": [{"endpoint": "gone"}]}, 404, "no live endpoint gone"),
            ({"canary": {"endpoint": "chat", "percent": 5}}, 422, "in the split already"),
            ({"shadow": {"endpoint": "chat"}}, 422, "in the split already"),
            ({"fallbacks": [{"provider": "partner", "model": "m"}]}, 403, "not approved for the provider partner"),
            ({"sharing": {"reserved": [{"tenant": "nobody", "slots": 1}]}}, 404, "no tenant nobody"),
            ({"fallbacks": [{"provider": "partner"}]}, 422, "go together"),
            ({"split": [{"endpoint": "chat", "weight": 1}] * 2}, 422, "twice"),
            ({"split": [{"endpoint": "chat", "weight": 0}]}, 422, "greater than 0"),
            ({"nothing": 1}, 422, "nothing"),
        ],
    )
    def test_what_cannot_be_is_refused_by_name(
        self, client: TestClient, engineer: Headers, plan: dict[str, Any], status: int, message: str
    ) -> None:
        answer = client.put(PLAN, json=plan, headers=engineer)
        assert answer.status_code in (status, 400 if status == 422 else status), answer.text
        assert message in answer.text

    @pytest.mark.usefixtures("endpoints")
    def test_others_see_nothing_and_may_nothing(
        self, client: TestClient, engineer: Headers, stranger: Headers, make_principal: Callable[..., Headers]
    ) -> None:
        client.put(PLAN, json={"fallbacks": [{"endpoint": "small"}]}, headers=engineer)
        assert client.get(PLAN, headers=stranger).status_code == 404
        assert client.put(PLAN, json={}, headers=stranger).status_code == 404
        assert client.delete(PLAN, headers=stranger).status_code == 404
        assert client.get(f"{API}/traffic", headers=stranger).json()["items"] == []
        assert client.put(PLAN, json={}, headers=make_principal("app-developer")).status_code == 403

    @pytest.mark.usefixtures("endpoints")
    def test_if_match_protects_what_another_changed(self, client: TestClient, engineer: Headers) -> None:
        client.put(PLAN, json={"sticky": False}, headers=engineer)
        client.put(PLAN, json={"sticky": True}, headers=engineer)
        late = client.put(PLAN, json={"sticky": False}, headers={**engineer, "If-Match": '"1"'})
        assert (late.status_code, late.json()["code"]) == (412, "version_mismatch")

    @pytest.mark.parametrize(("gateways", "expected"), [(1, (100, 512, 10)), (4, (25, 128, 2)), (200, (1, 2, 1))])
    def test_gateways_share_every_number(self, gateways: int, expected: tuple[int, int, int]) -> None:
        plan = TrafficPlan.model_validate(
            {"sharing": {"concurrency": 100, "reserved": [{"tenant": "cards", "slots": 10}]}}
        )
        terms = resolve_terms(plan, None, gateways, Sight({}, {}, {"cards": "ten_1"}))
        assert (terms["concurrency"], terms["queue"], terms["reserved"][0]["slots"]) == expected


class TestCanary:
    @pytest.fixture(autouse=True)
    def plan(self, client: TestClient, engineer: Headers, endpoints: dict[str, str]) -> None:
        body = {"canary": {"endpoint": "chat-v2", "percent": 10, "max_latency_ms": 500, "min_requests": 10}}
        assert client.put(PLAN, json=body, headers=engineer).status_code == 200

    def look(self, deps: Deps, clock: FakeClock) -> None:
        reconciler = CanaryReconciler(deps)
        reconciler.prepare()
        clock.advance(3)
        reconciler.run_once()

    def test_failures_roll_it_back_for_good(
        self, client: TestClient, admin: Headers, deps: Deps, clock: FakeClock, endpoints: dict[str, str],
        held: Callable[[], Snapshot],
    ) -> None:  # fmt: skip
        for _ in range(9):
            use(deps, endpoints, "chat-v2")
        self.look(deps, clock)
        assert client.get(PLAN, headers=admin).json()["plan"]["canary"] is not None
        # Its failures are told by the records of those who answered in its place.
        use(deps, endpoints, "chat", failed_target_id=endpoints["chat-v2"])
        self.look(deps, clock)
        shown = client.get(PLAN, headers=admin).json()
        assert shown["plan"]["canary"] is None
        assert shown["ended"]["verdict"] == "rolled_back"
        assert "1 of its 10 requests failed" in shown["ended"]["reason"]
        traffic = held().routes[endpoints["chat"]].traffic
        assert traffic is not None
        assert traffic.canary is None
        [event] = client.get(f"{API}/audit-events?action=traffic.canary_rolled_back", headers=admin).json()["items"]
        assert event["caller_name"] == "control plane"
        self.look(deps, clock)  # nothing is done twice
        events = client.get(f"{API}/audit-events?action=traffic.canary_rolled_back", headers=admin).json()["items"]
        assert len(events) == 1

    def test_latency_rolls_it_back(
        self, client: TestClient, admin: Headers, deps: Deps, clock: FakeClock, endpoints: dict[str, str]
    ) -> None:
        for _ in range(10):
            use(deps, endpoints, "chat-v2", ttft_ms=900.0)
        self.look(deps, clock)
        assert "took 900 ms" in client.get(PLAN, headers=admin).json()["ended"]["reason"]

    def test_what_was_before_the_plan_does_not_count(
        self, client: TestClient, engineer: Headers, deps: Deps, clock: FakeClock, endpoints: dict[str, str]
    ) -> None:
        for _ in range(20):
            use(deps, endpoints, "chat-v2", status=502, at=clock.now() - timedelta(hours=1))
        self.look(deps, clock)
        assert client.get(PLAN, headers=engineer).json()["plan"]["canary"] is not None

    def test_by_hand(self, client: TestClient, engineer: Headers) -> None:
        assert client.post(f"{PLAN}/promote", headers=engineer).json()["plan"]["split"] == [
            {"endpoint": "chat-v2", "weight": 1.0}
        ]
        again = client.post(f"{PLAN}/rollback", headers=engineer)
        assert (again.status_code, again.json()["code"]) == (409, "conflict")

    def test_shadows_are_metered_and_not_charged(
        self, client: TestClient, admin: Headers, deps: Deps, endpoints: dict[str, str]
    ) -> None:
        use(deps, endpoints, "chat")
        use(deps, endpoints, "small", traffic="shadow")
        [total] = client.get(f"{API}/usage/summary", headers=admin).json()["items"]
        assert total["requests"] == 1
        assert len(client.get(f"{API}/usage", headers=admin).json()["items"]) == 2


class TestProviders:
    BODY = {"name": "partner", "base_url": "https://llm.example.com/v1", "secret": "sk-very-secret"}  # noqa: RUF012

    def test_the_secret_is_sealed_everywhere(
        self, client: TestClient, admin: Headers, gateway: Headers, deps: Deps, held: Callable[[], Snapshot],
        make_principal: Callable[..., Headers], endpoints: dict[str, str],
    ) -> None:  # fmt: skip
        made = client.post(f"{API}/providers", json=self.BODY, headers=admin)
        assert made.status_code == 201, made.text
        approver = make_principal("approver")
        approved = client.post(
            f"{API}/providers/partner/approvals", json={"project": "default/default"}, headers=approver
        )
        assert [one["project"] for one in approved.json()["approvals"]] == ["default/default"]
        raw = client.get(f"{API}/gateway/snapshot", headers=gateway).text
        shown = json.dumps([made.json(), approved.json(), client.get(f"{API}/providers", headers=admin).json()])
        events = client.get(f"{API}/audit-events", headers=admin).text
        assert "sk-very-secret" not in raw + shown + events
        [provider] = held().providers.values()
        assert open_secret(deps.secrets.pepper.encode(), PURPOSE, provider.sealed) == "sk-very-secret"
        plan = {"fallbacks": [{"provider": "partner", "model": "big-1"}]}
        assert client.put(PLAN, json=plan, headers=admin).status_code == 200
        route = held().routes[endpoints["chat"]]
        assert route.traffic is not None
        assert route.traffic.fallbacks[0].model == "big-1"
        url = f"{API}/providers/partner/approvals/default/default"
        assert client.delete(url, headers=approver).status_code == 204
        assert held().providers[provider.provider_id].projects == ()
        assert client.delete(f"{API}/providers/partner", headers=admin).status_code == 204
        assert held().providers == {}

    def test_only_platform_admins_make_them_and_engineers_approve_nothing(
        self, client: TestClient, admin: Headers, engineer: Headers, stranger: Headers
    ) -> None:
        assert client.post(f"{API}/providers", json=self.BODY, headers=stranger).status_code == 403
        client.post(f"{API}/providers", json=self.BODY, headers=admin)
        approve = f"{API}/providers/partner/approvals"
        assert client.post(approve, json={"project": "default/default"}, headers=engineer).status_code == 403
        assert client.post(approve, json={"project": "default/default"}, headers=stranger).status_code in (403, 404)
        assert client.post(f"{API}/providers", json=self.BODY, headers=admin).status_code == 409

    @pytest.mark.parametrize(
        "url", ["http://llm.example.com/v1", "ftp://x/", "https://", "https://u:p@x/v1", "https://x/v1?a=1", "x",
         "https://x/v1 HTTP/1.1\r\nx: y", "https://x /v1"],
    )  # fmt: skip
    def test_addresses_that_are_refused(self, client: TestClient, admin: Headers, url: str) -> None:
        answer = client.post(f"{API}/providers", json={**self.BODY, "base_url": url}, headers=admin)
        assert (answer.status_code, "base_url" in answer.text or "address" in answer.text) == (422, True) or (
            answer.status_code == 400
        )

    @pytest.mark.parametrize("secret", ["sk-1\r\nx-other: header", "sk-1\n", "sk-\u00e9"])
    def test_a_secret_that_would_be_more_than_its_header(self, client: TestClient, admin: Headers, secret: str) -> None:
        answer = client.post(f"{API}/providers", json={**self.BODY, "secret": secret}, headers=admin)
        assert (answer.status_code, secret in answer.text) == (422, False)


class TestTenantSharing:
    URL = f"{API}/tenants/default/sharing"

    def test_reaches_gateways(
        self, client: TestClient, admin: Headers, held: Callable[[], Snapshot], make_tenant: Callable[[str], str]
    ) -> None:
        assert (held().weights, held().staleness) == ({}, {})
        changed = client.patch(self.URL, json={"weight": 3, "max_staleness_s": 120}, headers=admin)
        assert changed.json() == {"tenant": "default", "weight": 3.0, "max_staleness_s": 120}
        assert list(held().weights.values()) == [3.0]
        assert held().strictest_s == 120
        client.patch(self.URL, json={"max_staleness_s": None}, headers=admin)
        assert held().staleness == {}

    def test_who_may(self, client: TestClient, make_principal: Callable[..., Headers], stranger: Headers) -> None:
        own = make_principal("tenant-admin")
        assert client.patch(self.URL, json={"max_staleness_s": 300}, headers=own).status_code == 200
        assert client.patch(self.URL, json={"weight": 9}, headers=own).status_code == 403
        assert client.patch(self.URL, json={"max_staleness_s": 300}, headers=stranger).status_code == 404
        assert client.patch(self.URL, json={"max_staleness_s": 5}, headers=own).status_code == 422


def test_keys_carry_their_priority(client: TestClient, admin: Headers, held: Callable[[], Snapshot]) -> None:
    body = {"project": "default/default", "name": "night", "priority": "batch"}
    made = client.post(f"{API}/api-keys", json=body, headers=admin).json()
    assert [key.batch for key in held().keys.values()] == [True]
    client.post(f"{API}/api-keys/{made['id']}/rotate", json={}, headers=admin)
    assert [key.batch for key in held().keys.values()] == [True, True]
