"""Allowances, prices, the ledger's routes and the export, through the API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from fastapi.testclient import TestClient

from finmaas_core.clock import FakeClock
from finmaas_platform.deps import Deps

Headers = dict[str, str]
API = "/api/v1"
MONTH = {"scope": "project", "subject": "default/default", "unit": "tokens", "window": "month", "limit": "1000"}


def put(client: TestClient, who: Headers, **changes: Any) -> Any:
    return client.put(f"{API}/allowances", json=MONTH | changes, headers=who)


class Wire:
    """A gateway at the ledger's routes."""

    def __init__(self, client: TestClient, headers: Headers, name: str = "gw-1.aa") -> None:
        self.client, self.headers, self.name = client, headers, name
        self.epoch = self.post("open", gateway=name).json()["epoch"]

    def post(self, path: str, **body: Any) -> Any:
        return self.client.post(f"{API}/gateway/ledger/{path}", json=body, headers=self.headers)

    def ask(self, allowance: str, need: int, granted: int = 0, told: Any = (), starts_at: int = 1767225600) -> Any:
        want = {
            "allowance_id": allowance, "starts_at": starts_at, "at": 0, "granted": granted, "need": need, "least": need,
        }  # fmt: skip
        return self.post("calls", gateway=self.name, epoch=self.epoch, told=list(told), wants=[want]).json()["grants"]

    def deliver(self, *records: dict[str, Any]) -> Any:
        body = {"gateway_id": self.name, "records": list(records)}
        return self.client.post(f"{API}/gateway/usage", json=body, headers=self.headers)


def record(deps: Deps, seq: int, **changes: Any) -> dict[str, Any]:
    from sqlalchemy import select

    from finmaas_platform.db.projects import ProjectRow

    with deps.sessions() as session:
        project = session.scalars(select(ProjectRow).order_by(ProjectRow.id).limit(1)).one()
    return {
        "seq": seq, "request_id": f"req-{seq}", "at": "2026-01-01T00:00:00Z", "key_id": "key_1",
        "project_id": project.id, "tenant_id": project.tenant_id, "endpoint_id": "ep_1", "model_version_id": "mdv_1",
        "path": "/v1/chat/completions", "status": 200, "stream": True, "prompt_tokens": 10, "completion_tokens": 5,
        "cached_tokens": 2, "ttft_ms": 9.5, "duration_ms": 40.0, "replica": None, "finish": "complete",
        "counted_by": "engine",
    } | changes  # fmt: skip


class TestAllowances:
    def test_is_set_changed_shown_and_deleted(self, client: TestClient, admin: Headers) -> None:
        made = put(client, admin).json()
        assert (made["limit"], made["subject"], made["spent"]["free"]) == (1000, "default/default", 1000)
        again = put(client, admin, limit="2000").json()
        assert (again["id"], again["limit"], again["version"]) == (made["id"], 2000, 2)
        assert client.get(f"{API}/allowances/{made['id']}", headers=admin).json()["limit"] == 2000
        listed = client.get(f"{API}/allowances", params={"project": "default/default"}, headers=admin).json()["items"]
        assert [item["id"] for item in listed] == [made["id"]]
        assert client.delete(f"{API}/allowances/{made['id']}", headers=admin).status_code == 204
        assert client.get(f"{API}/allowances/{made['id']}", headers=admin).status_code == 404
        events = client.get(f"{API}/audit-events", params={"target": made["id"]}, headers=admin).json()["items"]
        assert [event["action"] for event in events] == ["allowance.delete", "allowance.set", "allowance.set"]

    def test_money_is_written_as_money(self, client: TestClient, admin: Headers) -> None:
        made = put(client, admin, unit="money", limit="12.50").json()
        assert (made["limit"], made["limit_text"]) == (12_500_000_000, "12.50 CNY")

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"unit": "concurrency"}, "now"),
            ({"unit": "money", "window": "minute"}, "day or month"),
            ({"limit": "-1"}, "whole number"),
            ({"unit": "money", "limit": "0.0000000001"}, "nine decimal places"),
            ({"unit": "money", "currency": "yuan"}, "three letters"),
            ({"scope": "model", "subject": "chat"}, "full name"),
        ],
    )
    def test_what_means_nothing_is_refused(
        self, client: TestClient, admin: Headers, changes: dict[str, str], said: str
    ) -> None:
        answer = put(client, admin, **changes)
        assert answer.status_code == 422
        assert said in answer.json()["detail"]

    def test_a_tenant_cannot_raise_its_own(
        self, client: TestClient, make_principal: Callable[..., Headers], engineer: Headers
    ) -> None:
        tenant_admin = make_principal("tenant-admin")
        assert put(client, tenant_admin).status_code == 200
        assert put(client, tenant_admin, scope="tenant", subject="default").status_code == 403
        assert put(client, engineer).status_code == 403

    def test_of_one_person(self, client: TestClient, admin: Headers, stranger: Headers, gateway: Headers) -> None:
        body = {"name": "ann", "role": "app-developer", "tenant": "default"}
        ann = client.post(f"{API}/principals", json=body, headers=admin).json()["id"]
        made = put(client, admin, scope="person", subject=ann, unit="requests", window="day").json()
        assert (made["subject"], made["subject_id"]) == ("person ann", ann)
        (told,) = client.get(f"{API}/gateway/snapshot", headers=gateway).json()["allowances"]
        assert (told["scope"], told["scope_id"]) == ("person", ann)
        assert put(client, stranger, scope="person", subject=ann).status_code == 404
        assert put(client, admin, scope="person", subject="prn_none").status_code == 404
        everywhere = client.post(f"{API}/principals", json={"name": "root2", "role": "platform-admin"}, headers=admin)
        refused = put(client, admin, scope="person", subject=everywhere.json()["id"])
        assert (refused.status_code, "belongs to no tenant" in refused.json()["detail"]) == (422, True), refused.text

    def test_others_do_not_see_it(self, client: TestClient, admin: Headers, stranger: Headers) -> None:
        made = put(client, admin).json()
        assert client.get(f"{API}/allowances/{made['id']}", headers=stranger).status_code == 404
        assert client.get(f"{API}/allowances", headers=stranger).json()["items"] == []
        assert client.delete(f"{API}/allowances/{made['id']}", headers=stranger).status_code == 404
        assert put(client, stranger).status_code == 404

    def test_reaches_gateways(self, client: TestClient, admin: Headers, gateway: Headers) -> None:
        made = put(client, admin, unit="requests", window="minute").json()
        told = client.get(f"{API}/gateway/snapshot", headers=gateway).json()
        (found,) = told["allowances"]
        assert (found["allowance_id"], found["limit"], found["window"]) == (made["id"], 1000, "minute")
        assert told["calendars"][0]["time_zone"] == "UTC"


class TestLedger:
    def test_never_hands_out_more_than_is_left(self, client: TestClient, admin: Headers, gateway: Headers) -> None:
        made = put(client, admin).json()
        one = Wire(client, gateway)
        (first,) = one.ask(made["id"], 100)
        assert (first["granted"], first["tight"]) == (550, False)
        (second,) = one.ask(made["id"], 900, granted=550)
        assert (second["granted"], second["final"], second["pool"]) == (550, True, 450)

    def test_an_answer_that_was_lost_is_not_granted_twice(
        self, client: TestClient, admin: Headers, gateway: Headers
    ) -> None:
        made = put(client, admin).json()
        one = Wire(client, gateway)
        assert one.ask(made["id"], 400)[0]["granted"] == one.ask(made["id"], 400)[0]["granted"]

    def test_settles_each_record_once(self, client: TestClient, deps: Deps, admin: Headers, gateway: Headers) -> None:
        made = put(client, admin).json()
        one = Wire(client, gateway)
        (grant,) = one.ask(made["id"], 100)
        records = [record(deps, seq, epoch=one.epoch, charges=[[grant["slice"], 15]]) for seq in (1, 2)]
        for _ in range(2):
            assert one.deliver(*records).status_code == 200
        spent = client.get(f"{API}/allowances/{made['id']}", headers=admin).json()["spent"]
        assert (spent["settled"], spent["held"]) == (30, 520)

    def test_a_charge_to_another_gateways_slice_settles_nothing(
        self, client: TestClient, deps: Deps, admin: Headers, gateway: Headers
    ) -> None:
        made = put(client, admin).json()
        (grant,) = Wire(client, gateway).ask(made["id"], 100)
        other = Wire(client, gateway, "gw-2.bb")
        other.deliver(record(deps, 1, epoch=other.epoch, charges=[[grant["slice"], 15]]))
        assert client.get(f"{API}/allowances/{made['id']}", headers=admin).json()["spent"]["settled"] == 0

    def test_a_new_process_gets_what_the_one_before_left_once_its_spool_is_read(
        self, client: TestClient, admin: Headers, gateway: Headers
    ) -> None:
        made = put(client, admin).json()
        Wire(client, gateway).ask(made["id"], 900)
        again = Wire(client, gateway)
        assert again.ask(made["id"], 900)[0]["final"]
        assert again.post("close", gateway=again.name, epoch=again.epoch).status_code == 204
        assert again.ask(made["id"], 900)[0]["granted"] >= 900

    def test_a_process_that_was_replaced_is_refused(self, client: TestClient, gateway: Headers) -> None:
        old = Wire(client, gateway)
        Wire(client, gateway)
        assert old.post("calls", gateway=old.name, epoch=old.epoch).status_code == 409

    def test_a_dead_gateways_slice_is_spent_until_written_off(
        self, client: TestClient, admin: Headers, gateway: Headers, clock: FakeClock
    ) -> None:
        made = put(client, admin).json()
        Wire(client, gateway, "gw-dead.aa").ask(made["id"], 900)
        clock.advance(30)
        alive = Wire(client, gateway, "gw-2.bb")
        (refused,) = alive.ask(made["id"], 500)
        assert (refused["final"], refused["away"]) == (True, ["gw-dead.aa"])
        body = {"gateway": "gw-dead.aa"}
        early = client.post(f"{API}/allowances/write-offs", json=body, headers=admin)
        assert (early.status_code, early.json()["code"]) == (409, "conflict")
        clock.advance(31)
        assert client.post(f"{API}/allowances/write-offs", json=body, headers=admin).json()["slices"] == 1
        assert alive.ask(made["id"], 500)[0]["granted"] >= 500
        assert client.post(f"{API}/allowances/write-offs", json={"gateway": "x"}, headers=admin).status_code == 404

    def test_idle_slices_are_called_back(self, client: TestClient, admin: Headers, gateway: Headers) -> None:
        made = put(client, admin).json()
        one, two = Wire(client, gateway), Wire(client, gateway, "gw-2.bb")
        (held,) = one.ask(made["id"], 600)
        import threading

        got: list[Any] = []
        waiter = threading.Thread(target=lambda: got.extend(two.ask(made["id"], 700)))
        waiter.start()
        rounds = 0
        while waiter.is_alive():
            found = one.post("recalls", gateway=one.name, epoch=one.epoch, wait_s=0).json()["recalls"]
            for recall in found:
                rounds += 1
                told = [
                    {
                        "slice": recall["slice"],
                        "granted": recall["granted"],
                        "returned": recall["granted"] - 250,
                        "reserved": 0,
                    }
                ]
                told[0]["round"] = recall["round"]
                one.post("calls", gateway=one.name, epoch=one.epoch, told=told)
        waiter.join(20)
        assert rounds >= 1
        assert got[0]["granted"] >= 700
        assert held["granted"] >= 600

    def test_only_gateways_may(self, client: TestClient, admin: Headers) -> None:
        assert client.post(f"{API}/gateway/ledger/open", json={"gateway": "x"}, headers=admin).status_code == 403


class TestPrices:
    PRICE: ClassVar[dict[str, Any]] = {
        "model": "*", "currency": "CNY", "valid_from": "2026-01-01", "input": "2", "output": "6.5",
    }  # fmt: skip

    def test_is_set_and_listed(self, client: TestClient, admin: Headers, engineer: Headers) -> None:
        made = client.put(f"{API}/prices", json=self.PRICE, headers=admin).json()
        assert (made["cached_input"], made["output"]) == ("2.00", "6.50")
        replaced = client.put(f"{API}/prices", json=self.PRICE | {"cached_input": "0.5"}, headers=admin).json()
        assert (replaced["id"], replaced["cached_input"]) == (made["id"], "0.50")
        assert len(client.get(f"{API}/prices", headers=engineer).json()["items"]) == 1

    @pytest.mark.parametrize("day", ["2025-12-30", "2026-1-1", "tomorrow"])
    def test_days_that_are_over_keep_their_price(self, client: TestClient, admin: Headers, day: str) -> None:
        answer = client.put(f"{API}/prices", json=self.PRICE | {"valid_from": day}, headers=admin)
        assert answer.status_code == 422

    def test_of_others_is_not_shown(self, client: TestClient, admin: Headers, stranger: Headers) -> None:
        client.put(f"{API}/prices", json=self.PRICE | {"model": "default/default/chat"}, headers=admin)
        assert client.get(f"{API}/prices", headers=stranger).json()["items"] == []
        assert client.put(f"{API}/prices", json=self.PRICE, headers=stranger).status_code == 403


class TestExport:
    def test_sums_by_group_and_day_in_the_tenants_time(
        self, client: TestClient, deps: Deps, admin: Headers, gateway: Headers
    ) -> None:
        settings = {"time_zone": "Asia/Shanghai", "cost_centre": "T-1", "currency": "CNY"}
        assert client.patch(f"{API}/tenants/default", json=settings, headers=admin).status_code == 200
        one = Wire(client, gateway)
        paid = {"cost_nano": 1_500_000_000, "currency": "CNY", "reasoning_tokens": 3}
        one.deliver(record(deps, 1, at="2026-01-01T15:59:00Z", **paid))
        client.patch(f"{API}/projects/default/default", json={"cost_centre": "=P-2"}, headers=admin)
        one.deliver(record(deps, 2, at="2026-01-01T16:01:00Z", **paid))
        params: dict[str, Any] = {"since": "2026-01-01", "until": "2026-01-02", "by": ["cost_centre", "day"]}
        lines = client.get(f"{API}/usage/export", params=params, headers=admin).json()["lines"]
        assert [(line["group"], line["cost"], line["reasoning_tokens"]) for line in lines] == [
            ({"cost_centre": "=P-2", "day": "2026-01-02"}, "1.50", 3),
            ({"cost_centre": "T-1", "day": "2026-01-01"}, "1.50", 3),
        ]
        sheet = client.get(f"{API}/usage/export", params=params | {"csv": True}, headers=admin)
        assert sheet.headers["content-type"].startswith("text/csv")
        assert sheet.text.splitlines()[1] == "'=P-2,2026-01-02,CNY,1,10,2,5,3,1500000000,1.50"

    def test_others_see_nothing_of_it(
        self, client: TestClient, deps: Deps, gateway: Headers, stranger: Headers
    ) -> None:
        Wire(client, gateway).deliver(record(deps, 1))
        params: dict[str, Any] = {"since": "2026-01-01", "until": "2026-01-02", "by": ["key", "model", "tenant"]}
        assert client.get(f"{API}/usage/export", params=params, headers=stranger).json()["lines"] == []
        other = params | {"project": "default/default"}
        assert client.get(f"{API}/usage/export", params=other, headers=stranger).status_code == 404

    def test_a_period_that_is_none_is_refused(self, client: TestClient, admin: Headers) -> None:
        params: dict[str, Any] = {"since": "2026-01-03", "until": "2026-01-02", "by": ["key"]}
        assert client.get(f"{API}/usage/export", params=params, headers=admin).status_code == 422


class TestCalendars:
    @pytest.mark.parametrize(
        "change", [{"time_zone": "Mars/Olympus"}, {"fiscal_day": 29}, {"currency": "money"}, {"time_zone": "../etc"}]
    )
    def test_what_cannot_be_reckoned_with_is_refused(
        self, client: TestClient, admin: Headers, change: dict[str, Any]
    ) -> None:
        assert client.patch(f"{API}/tenants/default", json=change, headers=admin).status_code == 422
