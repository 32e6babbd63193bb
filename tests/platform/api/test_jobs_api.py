"""Jobs over REST: as their owners see them, and as the job on the cluster speaks."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from finmaas_core.clock import FakeClock
from finmaas_platform.cluster.memory import MemoryCluster
from finmaas_platform.cluster.port import RunState
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.db.datasets import DatasetRow, DatasetVersionRow
from finmaas_platform.db.models import ModelRow, ModelVersionRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.principals import Caller, CallerKind
from finmaas_platform.reconcile.jobs import JobReconciler
from finmaas_platform.reconcile.loop import start_reconcilers
from finmaas_platform.services.blobs import record_put
from finmaas_registry.store import MemoryStore

Headers = dict[str, str]
TRAINING = {"base": "tiny@1", "dataset": "intents", "output": "tuned"}


def model_files() -> dict[str, bytes]:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    weights = struct.pack("<Q", len(header)) + header + b"\0\0\0\0"
    return {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": weights}


@dataclass
class Site:
    """The API with a dataset `intents@1` and a base `tiny@1` in it, and what a job on the cluster would do."""

    client: TestClient
    deps: Deps
    engineer: Headers
    node: Headers
    cluster: MemoryCluster
    clock: FakeClock
    reconciler: JobReconciler

    def post(self, path: str, body: Any = None, headers: Headers | None = None) -> Any:
        return self.client.post(f"/api/v1{path}", json=body, headers=headers or self.engineer)

    def get(self, path: str, headers: Headers | None = None) -> Any:
        return self.client.get(f"/api/v1{path}", headers=headers or self.engineer)

    def submit(self, kind: str = "training", **spec: Any) -> str:
        body = {"project": "default/default", "kind": kind, "spec": spec or TRAINING}
        answer = self.post("/jobs", body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def step(self, seconds: int = 1) -> None:
        for _ in range(seconds):
            self.clock.advance(1)
            for _ in range(20):
                if self.reconciler.run_once() > 0:
                    break

    def start(self, job_id: str, attempt: int = 1) -> Headers:
        self.step(2)
        answer = self.post(f"/jobs/{job_id}/attempts/{attempt}/token", headers=self.node)
        assert answer.status_code == 201, answer.text
        self.cluster.set_run(f"{job_id}-{attempt}", RunState.RUNNING)
        return {"Authorization": f"Bearer {answer.json()['token']}"}

    def put_files(self, job_id: str, files: dict[str, bytes]) -> list[dict[str, Any]]:
        with read_unit(self.deps.sessions) as session:
            tenant = session.scalars(select(TenantRow.id)).first()
        job = Caller(CallerKind.JOB, job_id, "job", tenant_id=tenant, job_id=job_id, attempt=1)
        for body in files.values():
            stored = self.deps.store.put([body])
            with unit_of_work(self.deps.sessions) as session:
                record_put(session, job, self.clock.now(), stored)
        return [{"path": p, "sha256": sha256(b).hexdigest(), "size": len(b)} for p, b in files.items()]

    def versions(self) -> int:
        with read_unit(self.deps.sessions) as session:
            return session.scalars(select(func.count(ModelVersionRow.id))).one()


@pytest.fixture
def site(
    client: TestClient, deps: Deps, engineer: Headers, node: Headers, cluster: MemoryCluster, clock: FakeClock
) -> Site:
    add_versions(deps)
    reconciler = JobReconciler(deps)
    reconciler.prepare()
    return Site(client, deps, engineer, node, cluster, clock, reconciler)


def add_versions(deps: Deps) -> None:
    now = deps.clock.now()
    config = deps.store.put([b'{"max_position_embeddings": 512}'])
    with unit_of_work(deps.sessions) as session:
        project = session.scalars(select(ProjectRow)).one()
        owner = {"tenant_id": project.tenant_id, "project_id": project.id, "created_at": now, "created_by": "test"}
        files = [
            {"path": "data/train.parquet", "sha256": "a" * 64, "size": 1},
            {"path": "config.json", "sha256": config.digest, "size": config.size},
        ]
        dataset = DatasetRow(id="ds_1", name="intents", latest_version=1, **owner)
        session.add(dataset)
        session.add(
            DatasetVersionRow(
                id="dsv_1", dataset=dataset, number=1, shape="classification", rows=10, splits={"train": 8, "test": 2},
                schema=[], stats={}, files=files, size_bytes=1, digest="d" * 64, source="t.csv", **owner,
            )
        )  # fmt: skip
        for number, name in enumerate(["tiny", "other"], 1):
            model = ModelRow(id=f"mdl_{number}", name=name, latest_version=1, **owner)
            session.add(model)
            session.add(
                ModelVersionRow(
                    id=f"mdv_{number}", model=model, number=1, kind="full", description="", files=files, size_bytes=1,
                    digest="e" * 64, metrics={}, **owner,
                )
            )  # fmt: skip


class TestPostJob:
    def test_pins_references_and_fills_in_defaults(self, site: Site) -> None:
        job = site.get(f"/jobs/{site.submit()}").json()
        assert (job["state"], job["kind"], job["project"]) == ("queued", "training", "default/default")
        assert job["spec"]["workers"] == 2
        assert job["version"] == 1

    @pytest.mark.parametrize(
        ("change", "status", "code", "words"),
        [
            ({"base": "nope"}, 404, "not_found", "no model nope"),
            ({"dataset": "intents@9"}, 404, "not_found", "no version 9"),
            ({"workers": 0}, 422, "invalid_spec", "workers: "),
            ({"workers": 3}, 422, "invalid_spec", "cannot be dealt to 3 workers"),
            ({"max_length": 4096}, 422, "invalid_spec", "exceeds the context of tiny"),
            ({"extra": 1}, 422, "invalid_spec", "extra: "),
        ],
    )
    def test_says_what_cannot_work(
        self, site: Site, change: dict[str, Any], status: int, code: str, words: str
    ) -> None:
        body = {"project": "default/default", "kind": "training", "spec": {**TRAINING, **change}}
        for path in ("/jobs", "/jobs/validate"):
            problem = site.post(path, body)
            assert (problem.status_code, problem.json()["code"]) == (status, code), problem.text
            assert words in problem.json()["detail"]
        assert site.get("/jobs").json()["items"] == []

    def test_validate_shows_the_pinned_versions(self, site: Site) -> None:
        body = {"project": "default/default", "kind": "training", "spec": TRAINING}
        checked = site.post("/jobs/validate", body).json()
        assert (checked["base"], checked["dataset"]) == ("default/default/tiny@1", "default/default/intents@1")

    def test_a_repeated_key_makes_one_job(self, site: Site) -> None:
        body = {"project": "default/default", "kind": "training", "spec": TRAINING}
        headers = {**site.engineer, "Idempotency-Key": "k1"}
        ids = {site.post("/jobs", body, headers).json()["id"] for _ in range(3)}
        assert len(ids) == 1

    def test_another_tenant_sees_nothing(self, site: Site, stranger: Headers) -> None:
        job_id = site.submit()
        assert site.get("/jobs", stranger).json()["items"] == []
        for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/logs", f"/jobs/{job_id}/metrics", f"/jobs/{job_id}/attempts"):
            assert site.get(path, stranger).status_code == 404
        assert site.post(f"/jobs/{job_id}/cancel", headers=stranger).status_code == 404

    def test_roles_that_may_not(self, site: Site, make_principal: Callable[..., Headers]) -> None:
        body = {"project": "default/default", "kind": "training", "spec": TRAINING}
        assert site.post("/jobs", body, make_principal("app-developer")).status_code == 403


class TestCancel:
    def test_a_waiting_job_is_cancelled_at_once(self, site: Site) -> None:
        job_id = site.submit()
        job = site.post(f"/jobs/{job_id}/cancel").json()
        assert (job["state"], job["reason"][:12]) == ("cancelled", "cancelled by")
        assert site.post(f"/jobs/{job_id}/cancel").json()["version"] == job["version"]
        site.step(2)
        assert site.cluster.submissions == {}

    def test_a_running_one_hears_of_it_and_its_result_is_not_taken(self, site: Site) -> None:
        job_id = site.submit()
        token = site.start(job_id)
        site.post(f"/jobs/{job_id}/cancel")
        path = f"/jobs/{job_id}/attempts/1"
        assert site.post(f"{path}/metrics", {"points": []}, token).json() == {"cancel": True}
        files = site.put_files(job_id, model_files())
        assert site.post(f"{path}/result", {"files": files}, token).status_code == 409
        site.step(2)
        assert site.get(f"/jobs/{job_id}").json()["state"] == "cancelled"
        assert site.versions() == 2


class TestProtocol:
    def test_the_token_is_given_once_and_to_nodes_only(self, site: Site) -> None:
        job_id = site.submit()
        site.step()
        path = f"/jobs/{job_id}/attempts/1/token"
        assert site.post(path, headers=site.engineer).status_code == 403
        assert site.post(f"/jobs/{job_id}/attempts/2/token", headers=site.node).status_code == 404
        assert site.post(path, headers=site.node).status_code == 201
        assert site.post(path, headers=site.node).status_code == 409
        assert site.get(f"/jobs/{job_id}").json()["state"] == "running"

    def test_inputs_are_the_pinned_versions(self, site: Site) -> None:
        job_id = site.submit()
        inputs = site.get(f"/jobs/{job_id}/attempts/1/inputs", site.start(job_id)).json()
        assert (inputs["kind"], inputs["dataset"]["shape"], inputs["subject"]) == ("training", "classification", None)
        assert inputs["base"]["ref"] == "default/default/tiny@1"
        assert inputs["base"]["files"][0]["path"] == "data/train.parquet"

    def test_metrics_are_one_curve_however_often_a_step_is_sent(self, site: Site) -> None:
        job_id = site.submit()
        token = site.start(job_id)
        path = f"/jobs/{job_id}/attempts/1/metrics"
        body = {
            "points": [{"step": s, "values": {"loss": 9 - s, "bad": None}} for s in (1, 2, 3)],
            "progress": {"step": 3, "total_steps": 10, "stage": "train"},
        }
        for _ in range(2):
            assert site.post(path, body, token).json() == {"cancel": False}
        site.post(path, {"points": [{"step": 3, "values": {"loss": 5.5}}]}, token)
        page = site.get(f"/jobs/{job_id}/metrics?after_step=1").json()
        assert [(p["step"], p["values"]) for p in page["items"]] == [(2, {"loss": 7}), (3, {"loss": 5.5})]
        job = site.get(f"/jobs/{job_id}").json()
        assert (job["metrics"], job["progress"]["stage"]) == ({"loss": 5.5}, "train")

    def test_another_jobs_token_opens_nothing(self, site: Site) -> None:
        one, two = site.submit(), site.submit()
        token = site.start(one)
        site.start(two)
        assert site.get(f"/jobs/{two}/attempts/1/inputs", token).status_code == 403
        assert site.get(f"/jobs/{one}", token).status_code == 403

    def test_a_later_attempt_goes_on_from_the_latest_checkpoint(self, site: Site) -> None:
        job_id = site.submit()
        token = site.start(job_id)
        path = f"/jobs/{job_id}/attempts/1/checkpoints"
        assert site.get(f"{path}/latest", token).status_code == 404
        files = site.put_files(job_id, {"state.bin": b"123"})
        for number in (10, 20, 20):
            body = {"step": number, "files": files, "state": {"seen": number}}
            assert site.post(path, body, token).status_code == 201
        unknown = [{"path": "x", "sha256": "f" * 64, "size": 1}]
        assert site.post(path, {"step": 30, "files": unknown}, token).status_code == 422
        site.cluster.lose_everything()
        site.step(2)
        again = site.start(job_id, 2)
        latest = site.get(f"/jobs/{job_id}/attempts/2/checkpoints/latest", again).json()
        assert (latest["step"], latest["state"], latest["files"]) == (20, {"seen": 20}, files)

    def test_a_replaced_attempt_writes_nothing(self, site: Site) -> None:
        job_id = site.submit()
        token = site.start(job_id)
        files = site.put_files(job_id, model_files())
        site.cluster.lose_everything()
        site.step(2)
        path = f"/jobs/{job_id}/attempts/1"
        before = site.get(f"/jobs/{job_id}").json()
        calls = [
            ("metrics", {"points": [{"step": 1, "values": {"loss": 1}}]}),
            ("checkpoints", {"step": 1, "files": files}),
            ("result", {"files": files}),
            ("failure", {"message": "x"}),
        ]
        for name, body in calls:
            problem = site.post(f"{path}/{name}", body, token)
            assert (problem.status_code, problem.json()["code"]) == (409, "stale_attempt"), name
        assert site.get(f"/jobs/{job_id}").json() == before
        assert site.versions() == 2


class TestResult:
    def test_makes_version_lineage_audit_and_success_at_once_and_once(self, site: Site, admin: Headers) -> None:
        job_id = site.submit()
        token = site.start(job_id)
        files = site.put_files(job_id, model_files())
        body = {"files": files, "metrics": {"loss": 0.3}}
        answers = [site.post(f"/jobs/{job_id}/attempts/1/result", body, token) for _ in range(2)]
        assert [a.status_code for a in answers] == [200, 200], answers[0].text
        assert answers[0].json() == answers[1].json()
        assert answers[0].json()["state"] == "succeeded"
        with read_unit(site.deps.sessions) as session:
            row = session.scalars(select(ModelVersionRow).where(ModelVersionRow.job_id == job_id)).one()
            assert (row.ref, row.base_version_id, row.dataset_version_id, row.metrics) == (
                "default/default/tuned@1", "mdv_1", "dsv_1", {"loss": 0.3},
            )  # fmt: skip
        events = site.get(f"/audit-events?target={job_id}", admin).json()["items"]
        assert {"job.create", "job.state"} == {event["action"] for event in events}

    def test_no_transaction_is_open_while_its_files_are_looked_at(
        self, site: Site, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job_id = site.submit()
        token = site.start(job_id)
        files = site.put_files(job_id, model_files())
        engine = site.deps.sessions.kw["bind"]
        open_blob, held = store.open, []

        def look(digest: str, offset: int = 0) -> Iterator[bytes]:
            held.append(engine.pool.checkedout())
            return open_blob(digest, offset)

        monkeypatch.setattr(store, "open", look)
        assert site.post(f"/jobs/{job_id}/attempts/1/result", {"files": files}, token).status_code == 200
        assert held
        assert set(held) == {0}

    def test_an_unusable_model_leaves_the_job_as_it_is(self, site: Site) -> None:
        job_id = site.submit()
        token = site.start(job_id)
        files = site.put_files(job_id, {"evil.py": b"import os"})
        assert site.post(f"/jobs/{job_id}/attempts/1/result", {"files": files}, token).status_code == 422
        assert site.get(f"/jobs/{job_id}").json()["state"] == "running"
        assert site.versions() == 2

    def test_the_process_ends_after_its_result_and_the_log_is_kept(self, site: Site) -> None:
        job_id = site.submit()
        token = site.start(job_id)
        site.post(f"/jobs/{job_id}/attempts/1/result", {"files": site.put_files(job_id, model_files())}, token)
        site.cluster.write_log(f"{job_id}-1", "line 1\nläst\n")
        site.cluster.set_run(f"{job_id}-1", RunState.SUCCEEDED)
        site.step(2)
        site.cluster.lose_everything()
        job = site.get(f"/jobs/{job_id}").json()
        assert (job["state"], job["result"]["model_version"]) == ("succeeded", "default/default/tuned@1")
        assert site.get(f"/jobs/{job_id}/logs?follow=true").text == "line 1\nläst\n"
        assert site.get(f"/jobs/{job_id}/logs?offset=7").text == "läst\n"

    def test_scores_are_kept_with_the_model_under_test(self, site: Site) -> None:
        job_id = site.submit("evaluation", model="other", dataset="intents", base="tiny")
        token = site.start(job_id)
        inputs = site.get(f"/jobs/{job_id}/attempts/1/inputs", token).json()
        assert (inputs["subject"]["id"], inputs["base"]["id"]) == ("mdv_2", "mdv_1")
        body = {"scores": {"exact_match": 0.9}, "details": {"rows": 2}}
        for _ in range(2):
            assert site.post(f"/jobs/{job_id}/attempts/1/result", body, token).status_code == 200
        with read_unit(site.deps.sessions) as session:
            metrics = session.get_one(ModelVersionRow, "mdv_2").metrics
        assert [(e["job_id"], e["scores"]) for e in metrics["evaluations"]] == [(job_id, {"exact_match": 0.9})]
        assert site.get(f"/jobs/{job_id}").json()["result"]["scores"] == {"exact_match": 0.9}

    def test_evaluating_a_model_against_itself_is_refused(self, site: Site) -> None:
        spec = {"model": "tiny", "dataset": "intents", "base": "default/default/tiny@1"}
        body = {"project": "default/default", "kind": "evaluation", "spec": spec}
        assert site.post("/jobs", body).json()["code"] == "invalid_spec"

    def test_what_the_job_says_of_its_failure_is_what_the_user_reads(self, site: Site) -> None:
        job_id = site.submit()
        token = site.start(job_id)
        body = {"message": "the loss is not a number since step 7; lower `learning_rate`", "final": True}
        assert site.post(f"/jobs/{job_id}/attempts/1/failure", body, token).status_code == 204
        site.cluster.set_run(f"{job_id}-1", RunState.FAILED, "Job entrypoint command failed with exit code 1")
        site.step(2)
        job = site.get(f"/jobs/{job_id}").json()
        assert (job["state"], job["attempt"]) == ("failed", 1)
        assert job["reason"] == f"attempt 1 failed: {body['message']}"


class TestLogsAndWaiting:
    def test_the_logs_of_all_attempts_read_as_one(self, site: Site) -> None:
        job_id = site.submit()
        site.start(job_id)
        site.cluster.write_log(f"{job_id}-1", "one\n")
        site.cluster.set_run(f"{job_id}-1", RunState.FAILED, "Job entrypoint command failed")
        site.step(5)
        site.start(job_id, 2)
        site.cluster.write_log(f"{job_id}-2", "two\n")
        whole = "one\n--- attempt 2 ---\ntwo\n"
        assert site.get(f"/jobs/{job_id}/logs").text == whole
        assert site.get(f"/jobs/{job_id}/logs?offset=4").text == whole[4:]
        attempts = site.get(f"/jobs/{job_id}/attempts").json()["items"]
        assert [(a["number"], a["state"]) for a in attempts] == [(1, "failed"), (2, "running")]

    def test_waiting_ends_with_the_change(self, site: Site) -> None:
        job_id = site.submit()
        begun = time.monotonic()
        threading.Timer(0.3, lambda: site.post(f"/jobs/{job_id}/cancel")).start()
        job = site.get(f"/jobs/{job_id}?wait_s=30&after_version=1").json()
        assert job["state"] == "cancelled"
        assert time.monotonic() - begun < 10

    def test_a_new_job_wakes_the_reconciler_at_once(self, site: Site, deps: Deps) -> None:
        submitted = threading.Event()
        submit = site.cluster.submit
        site.cluster.submit = lambda one: (submit(one), submitted.set())  # type: ignore[method-assign, assignment]
        stop = start_reconcilers(deps)
        try:
            begun = time.monotonic()
            site.submit()
            assert submitted.wait(10)
            assert time.monotonic() - begun < 3
        finally:
            stop()
