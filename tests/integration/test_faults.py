"""Processes of the running platform are killed at work: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import psutil
import pytest
from integration_helpers import Installation, wait_until

from finmaas_platform.sdk import Client
from finmaas_platform.sdk.objects import Endpoint, Job

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

LABELS = ("card-lost", "card-arrival", "transfer-failed", "refund-missing")
STEPS = 400  # long enough for the control plane to be back while they go on


@pytest.fixture(scope="module")
def ground(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A small data set and a small base model, imported."""
    folder = tmp_path_factory.mktemp("ground")
    write_rows(folder / "rows.csv", 400)
    subprocess.run(
        [sys.executable, "-m", "finmaas_training.base_model", "--texts", folder / "rows.csv", "--out", folder / "base"],
        check=True,
        capture_output=True,
        env=installation.env,
    )
    with installation.client() as client:
        client.datasets.import_file(folder / "rows.csv", "fault-rows", text="text", label="label")
        client.models.import_folder(folder / "base", "fault-base")


def write_rows(path: Path, count: int) -> None:
    with path.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["text", "label"])
        writer.writerows([f"request {i} about {LABELS[i % 4]} 请求", LABELS[i % 4]] for i in range(count))


def submit(client: Client, output: str, steps: int = STEPS) -> Job:
    spec = {
        "base": "fault-base@1",
        "dataset": "fault-rows@1",
        "output": output,
        "max_steps": steps,
        "epochs": 100,
        "batch_size": 16,
        "checkpoint_every_steps": 10,
        "log_every_steps": 1,
    }
    return client.jobs.submit("training", spec)


def step_of(client: Client, job: Job) -> int:
    return client.jobs.get(job.id).progress.step or 0


def training_workers(installation: Installation) -> list[psutil.Process]:
    """Ray Train's worker processes, which name themselves after what they run."""
    return [process for process in installation.processes("ray") if is_training_worker(process)]


def is_training_worker(process: psutil.Process) -> bool:
    """False for one that has ended since it was listed."""
    try:
        return "RayTrainWorker" in " ".join(process.cmdline()) or "TrainWorker" in process.name()
    except psutil.NoSuchProcess:
        return False


def ask(installation: Installation, key: str, endpoint: str) -> str:
    gateway = openai.OpenAI(base_url=f"{installation.settings.gateway_url}/v1", api_key=key, max_retries=0, timeout=60)
    answer = gateway.chat.completions.create(
        model=endpoint, messages=[{"role": "user", "content": "request 1 about card-lost"}], temperature=0, max_tokens=8
    )
    assert answer.model == endpoint
    return answer.choices[0].message.content or ""


def answers(installation: Installation, key: str, endpoint: str) -> bool:
    try:
        ask(installation, key, endpoint)
    except openai.APIError:
        return False
    return True


class TestImport:
    def test_a_control_plane_killed_during_an_import_leaves_one_version(
        self, installation: Installation, client: Client, tmp_path: Path
    ) -> None:
        write_rows(tmp_path / "many.csv", 300_000)
        columns = {"text": "text", "label": "label"}
        half_sent = threading.Event()

        def watch(sent: int, total: int) -> None:
            if sent >= total // 2:
                half_sent.set()

        with ThreadPoolExecutor() as pool:
            imported = pool.submit(
                client.datasets.import_file, tmp_path / "many.csv", "killed-import", on_progress=watch, **columns
            )
            assert half_sent.wait(60)
            installation.kill("control-plane")
            version = imported.result(timeout=180)
        assert (version.version, version.rows) == (1, 300_000)
        assert [found.id for found in client.datasets.versions("killed-import")] == [version.id]
        again = client.datasets.import_file(tmp_path / "many.csv", "killed-import", **columns)
        assert again.id == version.id


@pytest.mark.usefixtures("ground")
class TestTraining:
    def test_a_killed_control_plane_and_a_killed_worker_cost_neither_attempt_nor_result(
        self, installation: Installation, client: Client
    ) -> None:
        job = submit(client, "fault-model")
        wait_until(lambda: step_of(client, job) >= 5, 180, "training has begun")
        installation.kill("control-plane")
        wait_until(lambda: step_of(client, job) >= 25, 120, "training goes on")
        victim = training_workers(installation)[0]
        victim.kill()
        done = client.jobs.wait(job.id, timeout_s=300)
        assert (done.state, done.attempt) == ("succeeded", 1), done.reason
        assert [point.step for point in client.jobs.metrics(job.id)] == list(range(1, STEPS + 1))
        versions = list(client.models.versions("fault-model"))
        assert [version.lineage.job_id for version in versions] == [job.id]
        assert versions[0].lineage.dataset_version_id == client.datasets.version("fault-rows@1").id

    def test_a_job_is_cancelled_and_registers_nothing(self, client: Client) -> None:
        job = submit(client, "cancelled-model", steps=5000)
        wait_until(lambda: step_of(client, job) >= 1, 180, "training has begun")
        client.jobs.cancel(job.id)
        done = client.jobs.wait(job.id, timeout_s=60)
        assert done.state == "cancelled"
        assert "cancelled-model" not in {model.name for model in client.models.list()}


@pytest.mark.usefixtures("ground")
class TestServing:
    def test_two_endpoints_at_once_then_a_lost_head_with_training_beside_them(
        self, installation: Installation, client: Client
    ) -> None:
        key = client.keys.create("default/default", "faults").key or ""
        first = client.endpoints.deploy("fault-one", "fault-base@1", engine={"max_model_len": 256})
        second = client.endpoints.deploy("fault-two", "fault-base@1", engine={"max_model_len": 256})
        installation.kill("control-plane")
        for endpoint in (first, second):
            client.endpoints.wait_ready(endpoint.name, timeout_s=240)
        for name in ("fault-one", "fault-two", "default/default/fault-one"):
            wait_until(lambda name=name: answers(installation, key, name), 60, f"{name} answers")  # type: ignore[misc]

        job = submit(client, "beside-model", steps=120)
        wait_until(lambda: step_of(client, job) >= 15, 180, "training runs beside live endpoints")
        assert answers(installation, key, "fault-one")

        for process in installation.processes("ray"):
            process.kill()
        wait_until(lambda: client.endpoints.get("fault-one").state != "ready", 60, "the endpoint's state says so")
        done = client.jobs.wait(job.id, timeout_s=400)
        assert done.state == "succeeded", done.reason
        assert done.attempt == 2
        assert len(list(client.models.versions("beside-model"))) == 1
        for endpoint in (first, second):
            client.endpoints.wait_ready(endpoint.name, timeout_s=240)
            wait_until(lambda e=endpoint: answers(installation, key, e.name), 60, "it answers again")  # type: ignore[misc]
        self.check_undeploy(installation, client, key, first)

    @staticmethod
    def check_undeploy(installation: Installation, client: Client, key: str, endpoint: Endpoint) -> None:
        client.endpoints.delete(endpoint.name)
        wait_until(lambda: not answers(installation, key, endpoint.name), 30, "a stopped endpoint answers no more")
        assert answers(installation, key, "fault-two")
        client.endpoints.delete("fault-two")

    def test_every_change_left_an_audit_event(self, client: Client) -> None:
        actions = {event.action for event in client.audit.list()}
        assert {"dataset_version.create", "job.create", "endpoint.create", "api_key.create"} <= actions, sorted(actions)


def test_no_secret_is_readable_in_rays_job_list(installation: Installation) -> None:
    import httpx

    token = installation.settings.paths.ray_token.read_text().strip()
    reply = httpx.get(
        f"{installation.settings.dashboard_url}/api/jobs/",
        headers={"Authorization": f"Bearer {token}"},
        trust_env=False,
    )
    text = json.dumps(reply.json())
    assert reply.json(), "jobs were run before"
    for secret in installation.settings.paths.secrets.iterdir():
        assert secret.read_text().strip() not in text, secret.name
    assert "fmj_" not in text
