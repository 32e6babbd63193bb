"""Endpoints over REST, and what the reconciler makes of them on a cluster in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from finmaas_core.clock import FakeClock
from finmaas_core.errors import InvalidInput, Unavailable
from finmaas_platform.cluster.memory import MemoryCluster
from finmaas_platform.cluster.port import ApplicationState
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.db.models import ModelRow, ModelVersionRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.deps import Deps
from finmaas_platform.reconcile.endpoints import EndpointReconciler
from finmaas_platform.services.snapshots import find_snapshot_number

Headers = dict[str, str]
PATH = "/endpoints/default/default/one"


@dataclass
class Site:
    """The API with models `m@1` and `m@2` in it, and the reconciler of endpoints."""

    client: TestClient
    deps: Deps
    headers: Headers
    cluster: MemoryCluster
    clock: FakeClock
    reconciler: EndpointReconciler

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        return self.client.request(method, f"/api/v1{path}", json=body, headers={**self.headers, **headers})

    def deploy(self, name: str = "one", **values: Any) -> dict[str, Any]:
        body = {"project": "default/default", "name": name, "model": "m@1", **values}
        answer = self.call("POST", "/endpoints", body)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def step(self, seconds: int = 1) -> None:
        for _ in range(seconds):
            self.clock.advance(1)
            self.reconciler.run_once()

    def show(self, name: str = "one") -> tuple[str, str, int]:
        one = self.call("GET", f"/endpoints/default/default/{name}").json()
        return one["state"], one["reason"], one["ready_replicas"]

    def snapshot(self) -> int:
        with read_unit(self.deps.sessions) as session:
            return find_snapshot_number(session)


@pytest.fixture
def site(client: TestClient, deps: Deps, engineer: Headers, cluster: MemoryCluster, clock: FakeClock) -> Site:
    now = clock.now()
    with unit_of_work(deps.sessions) as session:
        project = session.scalars(select(ProjectRow)).one()
        owner = {"tenant_id": project.tenant_id, "project_id": project.id, "created_at": now, "created_by": "test"}
        model = ModelRow(id="mdl_1", name="m", latest_version=2, **owner)
        session.add(model)
        for number, kind in ((1, "full"), (2, "full"), (3, "adapter")):
            session.add(
                ModelVersionRow(
                    id=f"mdv_{number}", model=model, number=number, kind=kind, description="", files=[], size_bytes=1,
                    digest="e" * 64, metrics={}, **owner,
                )
            )  # fmt: skip
    reconciler = EndpointReconciler(deps)
    reconciler.prepare()
    return Site(client, deps, engineer, cluster, clock, reconciler)


class TestDeploy:
    def test_from_pending_to_ready_with_reasons(self, site: Site) -> None:
        made = site.deploy(replicas=2, engine={"max_model_len": 512})
        assert (made["state"], made["model_version"]["ref"]) == ("pending", "default/default/m@1")
        site.step()
        assert site.show() == ("starting", "handed to the cluster", 0)
        assert dict(site.cluster.puts[-1][0].args) == {
            "endpoint_id": made["id"],
            "model_version_id": "mdv_1",
            "model_name": "default/default/one",
            "replicas": 2,
            "engine": {"max_model_len": 512},
        }
        site.step()
        assert site.show() == ("starting", "the engine loads the model", 0)
        site.cluster.set_application(made["id"], ApplicationState.RUNNING, replicas=["127.0.0.1:30001"])
        before = site.snapshot()
        site.step()
        assert site.show() == ("ready", "1 of 2 replicas answer", 1)
        assert site.snapshot() == before + 1
        assert len(site.cluster.puts) == 1

    def test_two_at_once_are_one_document(self, site: Site) -> None:
        ids = {site.deploy("one")["id"], site.deploy("two")["id"]}
        site.step()
        assert [{app.name for app in put} for put in site.cluster.puts] == [ids]

    @pytest.mark.parametrize(
        ("change", "status", "code"),
        [
            ({"model": "nope"}, 404, "not_found"),
            ({"model": "m@3"}, 422, "invalid_spec"),
            ({"name": "Bad Name"}, 422, "bad_input"),
            ({"replicas": 0}, 422, "bad_input"),
            ({"engine": {"unknown": 1}}, 422, "bad_input"),
            ({"engine": {"vllm": {"trust_remote_code": True}}}, 403, "not_allowed"),
            ({"project": "other/default"}, 404, "not_found"),
        ],
    )
    def test_says_what_cannot_work(self, site: Site, change: dict[str, Any], status: int, code: str) -> None:
        body = {"project": "default/default", "name": "one", "model": "m@1", **change}
        problem = site.call("POST", "/endpoints", body)
        assert (problem.status_code, problem.json()["code"]) == (status, code), problem.text

    def test_another_tenants_model_is_not_found_even_for_an_admin(
        self, site: Site, make_tenant: Callable[[str], str], admin: Headers
    ) -> None:
        make_tenant("other")
        body = {"project": "other/default", "name": "one", "model": "default/default/m@1"}
        assert site.client.post("/api/v1/endpoints", json=body, headers=admin).status_code == 404

    def test_a_name_is_taken_until_its_endpoint_is_stopped(self, site: Site) -> None:
        first = site.deploy()
        body = {"project": "default/default", "name": "one", "model": "m@1"}
        problem = site.call("POST", "/endpoints", body)
        assert (problem.status_code, problem.json()["code"]) == (409, "already_exists")
        assert site.call("DELETE", PATH).json()["state"] == "stopped"
        assert site.deploy()["id"] != first["id"]
        assert len(site.call("GET", "/endpoints").json()["items"]) == 1
        assert len(site.call("GET", "/endpoints?stopped=true").json()["items"]) == 2

    def test_another_tenant_sees_nothing(self, site: Site, stranger: Headers) -> None:
        site.deploy()
        assert site.client.get(f"/api/v1{PATH}", headers=stranger).status_code == 404
        assert site.client.delete(f"/api/v1{PATH}", headers=stranger).status_code == 404
        assert site.client.get("/api/v1/endpoints", headers=stranger).json()["items"] == []


class TestChange:
    def test_another_model_is_rolled_out(self, site: Site) -> None:
        made = site.deploy()
        site.step()
        site.cluster.set_application(made["id"], ApplicationState.RUNNING, replicas=["127.0.0.1:30001"])
        site.step()
        version = site.call("GET", PATH).json()["version"]
        stale = site.call("PATCH", PATH, {"model": "m@2"}, **{"If-Match": f'"{version - 1}"'})
        assert stale.json()["code"] == "version_mismatch"
        changed = site.call("PATCH", PATH, {"model": "m@2"}, **{"If-Match": f'"{version}"'}).json()
        assert (changed["state"], changed["model_version"]["ref"]) == ("starting", "default/default/m@2")
        site.step()
        assert site.cluster.puts[-1][0].args["model_version_id"] == "mdv_2"
        site.cluster.set_application(made["id"], ApplicationState.RUNNING, replicas=["127.0.0.1:30002"])
        site.step()
        assert site.show()[0] == "ready"

    def test_no_change_is_no_change(self, site: Site) -> None:
        version = site.deploy()["version"]
        assert site.call("PATCH", PATH, {"replicas": 1}).json()["version"] == version

    def test_a_change_made_while_the_reconciler_looks_is_kept(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site.deploy()
        observe = site.cluster.observe_applications

        def observe_late() -> Any:
            monkeypatch.undo()
            site.call("PATCH", PATH, {"replicas": 3})
            return observe()

        monkeypatch.setattr(site.cluster, "observe_applications", observe_late)
        site.step()
        assert site.call("GET", PATH).json()["reason"] == "a change is being rolled out"
        site.step()
        assert site.cluster.puts[-1][0].args["replicas"] == 3

    def test_stopping_takes_it_out_of_the_document(self, site: Site) -> None:
        one, two = site.deploy("one"), site.deploy("two")
        site.step()
        site.call("DELETE", PATH)
        site.step()
        assert [[app.name for app in put] for put in site.cluster.puts] == [[one["id"], two["id"]], [two["id"]]]
        assert site.call("DELETE", PATH).status_code == 404
        assert site.show()[0] == "stopped"


class TestTrouble:
    def ready(self, site: Site) -> dict[str, Any]:
        made = site.deploy()
        site.step()
        site.cluster.set_application(made["id"], ApplicationState.RUNNING, replicas=["127.0.0.1:30001"])
        site.step()
        assert site.show()[0] == "ready"
        return made

    def test_a_new_head_gets_everything_again(self, site: Site) -> None:
        self.ready(site)
        site.cluster.down = True
        site.step()
        assert site.show() == ("ready", "the cluster does not answer; its replicas may still serve", 1)
        site.cluster.down = False
        site.cluster.lose_everything()
        site.step(16)
        assert len(site.cluster.puts) == 2
        assert site.show()[0] == "starting"

    def test_serves_own_words_on_failure(self, site: Site) -> None:
        made = site.deploy()
        site.step()
        site.cluster.set_application(made["id"], ApplicationState.FAILED, "Deploying failed\n...\nValueError: too big")
        site.step()
        state, reason, _ = site.show()
        assert (state, reason) == ("failed", "the engine could not start: Deploying failed … ValueError: too big")

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (Unavailable("gone"), "the cluster does not answer; the endpoint is deployed when it is back"),
            (InvalidInput("bad document"), "the cluster refuses the deployment: bad document"),
        ],
    )
    def test_a_put_that_fails_is_told(
        self, site: Site, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
    ) -> None:
        def fail(_applications: object) -> None:
            raise error

        site.deploy()
        monkeypatch.setattr(site.cluster, "put_applications", fail)
        site.step()
        assert site.show()[1] == reason

    def test_two_control_planes_write_one_document(self, site: Site, deps: Deps) -> None:
        site.deploy()
        site.clock.advance(1)
        other = EndpointReconciler(deps)
        assert site.reconciler._claim() is not None
        assert other._claim() is None
        site.clock.advance(61)
        other.run_once()
        assert len(site.cluster.puts) == 1

    def test_killed_after_the_put_it_is_put_again_and_changes_nothing(self, site: Site, deps: Deps) -> None:
        made = site.deploy()
        killed = EndpointReconciler(deps)
        killed._apply = lambda *_: None  # type: ignore[method-assign]
        site.clock.advance(1)
        killed.run_once()
        again = EndpointReconciler(deps)
        again.prepare()
        site.clock.advance(1)
        again.run_once()
        assert {app.name for put in site.cluster.puts for app in put} == {made["id"]}
        assert site.show()[0] == "starting"
