"""A real Ray, started as the embedded profile does: the cluster's contract, and endpoints on real vLLM."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cluster_contract
import httpx
import psutil
import pytest
from cluster_contract import ClusterContract
from integration_helpers import find_port_block, wait_until
from serving_parts import control_plane_of_one_model, ray_of_our_own

from finmaas_core.home import read_secret
from finmaas_core.settings import Settings
from finmaas_platform.cluster.port import ApplicationState, JobSubmission, RunState, ServeApplication
from finmaas_platform.cluster.ray_cluster import RayCluster
from finmaas_serving.replica_door import derive_replica_secret

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

VERSION = "mdv_small"
READY_TIMEOUT_S = 300.0
# What a training job takes: a driver that holds two workers of one slot each.
TRAINING_LIKE = """python -c '
import ray
ray.init()
@ray.remote(num_cpus=1)
class Worker:
    def work(self): return 1
workers = [Worker.remote() for _ in range(2)]
print("workers answered:", sum(ray.get([worker.work.remote() for worker in workers])))
'"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("ray") / "home", port_base=find_port_block())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with a tokenizer and a chat template, as a folder."""
    folder = tmp_path_factory.mktemp("model")
    with (folder / "rows.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["text", "label"])
        writer.writerows([f"my card {i} did not arrive", "card-arrival"] for i in range(200))
    command = [sys.executable, "-m", "finmaas_training.base_model"]
    subprocess.run([*command, "--texts", folder / "rows.csv", "--out", folder / "base"], check=True)
    return folder / "base"


@pytest.fixture(scope="module")
def cluster(settings: Settings, model: Path) -> Iterator[RayCluster]:
    helpers = Path(cluster_contract.__file__).parent
    with ray_of_our_own(settings, helpers) as ray, control_plane_of_one_model(settings, model, VERSION):
        yield ray


def endpoint(name: str, version: str = VERSION) -> ServeApplication:
    args = {
        "endpoint_id": name,
        "model_version_id": version,
        "model_name": f"default/default/{name}",
        "replicas": 1,
        "engine": {"max_model_len": 256},
    }
    return ServeApplication(name, "finmaas_serving.llm_app:build_app", args)


def put_and_wait(cluster: RayCluster, applications: Sequence[ServeApplication]) -> None:
    """Deploys exactly these and waits until each has settled, well or badly."""
    settled = {ApplicationState.RUNNING, ApplicationState.FAILED}
    cluster.put_applications(applications)

    def all_settled() -> bool:
        seen = cluster.observe_applications()
        return set(seen) == {one.name for one in applications} and all(one.state in settled for one in seen.values())

    wait_until(all_settled, READY_TIMEOUT_S, f"{[one.name for one in applications]} to settle")


@pytest.fixture(scope="module")
def door(cluster: RayCluster, settings: Settings) -> dict[str, str]:
    """The header by which a gateway is let in."""
    return {"Authorization": f"Bearer {derive_replica_secret(read_secret(settings.paths.cluster_token))}"}


def chat(cluster: RayCluster, door: dict[str, str], name: str, **fields: Any) -> httpx.Response:
    """Asks the first replica of an endpoint, on its own port."""
    address = cluster.observe_applications()[name].replicas[0]
    body = {
        "model": f"default/default/{name}",
        "messages": [{"role": "user", "content": "my card did not arrive"}],
        "max_tokens": 8,
        "ignore_eos": True,
        **fields,
    }
    return httpx.post(f"http://{address}/{name}/v1/chat/completions", json=body, headers=door, timeout=60)


def replica_process(name: str, settings: Settings) -> psutil.Process:
    """The process that holds an endpoint's replica, by Ray's title for it."""
    for process in psutil.process_iter(["cmdline"]):
        title = " ".join(process.info["cmdline"] or [])
        if title.startswith(f"ray::ServeReplica:{name}:") and settings.home.name in str(process.environ()):
            return process
    raise AssertionError(f"no replica of {name} runs")


class TestContract(ClusterContract):
    """On the real one, time passes by itself."""


class TestEndpoints:
    def test_two_at_once_answer_and_the_end_of_one_leaves_the_other(
        self, cluster: RayCluster, settings: Settings, door: dict[str, str]
    ) -> None:
        put_and_wait(cluster, [endpoint("ep_a"), endpoint("ep_b")])
        for name in ("ep_a", "ep_b"):
            answer = chat(cluster, door, name).json()
            assert (answer["model"], answer["usage"]["completion_tokens"]) == (f"default/default/{name}", 8)
        before = replica_process("ep_a", settings)
        put_and_wait(cluster, [endpoint("ep_a")])
        assert replica_process("ep_a", settings) == before
        assert chat(cluster, door, "ep_a").is_success

    def test_a_replicas_port_opens_to_gateways_alone(self, cluster: RayCluster, door: dict[str, str]) -> None:
        put_and_wait(cluster, [endpoint("ep_a")])
        address = cluster.observe_applications()["ep_a"].replicas[0]
        for path in ("v1/models", "metrics", "v1/load_lora_adapter", "health"):
            assert httpx.get(f"http://{address}/ep_a/{path}").status_code == httpx.codes.UNAUTHORIZED
        assert chat(cluster, {"Authorization": "Bearer guess"}, "ep_a").status_code == httpx.codes.UNAUTHORIZED
        assert httpx.get(f"http://{address}/ep_a/v1/models", headers=door).is_success

    def test_a_stale_address_never_reaches_another_endpoint(self, cluster: RayCluster, door: dict[str, str]) -> None:
        put_and_wait(cluster, [endpoint("ep_a")])
        address = cluster.observe_applications()["ep_a"].replicas[0]
        assert httpx.get(f"http://{address}/ep_b/v1/models", headers=door).status_code == httpx.codes.NOT_FOUND

    def test_a_stream_tells_its_usage_at_every_step(self, cluster: RayCluster, door: dict[str, str]) -> None:
        put_and_wait(cluster, [endpoint("ep_a")])
        options = {"include_usage": True, "continuous_usage_stats": True}
        events = chat(cluster, door, "ep_a", stream=True, stream_options=options).text.split("\n\n")
        assert events[-2] == "data: [DONE]"
        assert all('"usage":{' in event for event in events if event.startswith("data: {"))

    def test_a_version_that_is_not_there_fails_with_a_reason(self, cluster: RayCluster) -> None:
        put_and_wait(cluster, [endpoint("ep_a"), endpoint("ep_wrong", "mdv_nobody")])
        seen = cluster.observe_applications()
        assert seen["ep_wrong"].state is ApplicationState.FAILED
        assert seen["ep_wrong"].message.startswith("there is no model version mdv_nobody")
        assert seen["ep_a"].state is ApplicationState.RUNNING

    def test_a_job_with_two_workers_fits_beside_a_live_endpoint(
        self, cluster: RayCluster, door: dict[str, str]
    ) -> None:
        put_and_wait(cluster, [endpoint("ep_a")])
        cluster.submit(JobSubmission("job_beside-1", TRAINING_LIKE))
        ended = (RunState.SUCCEEDED, RunState.FAILED)
        wait_until(lambda: cluster.observe_runs()["job_beside-1"].state in ended, 120, "the job to end")
        assert cluster.observe_runs()["job_beside-1"].state is RunState.SUCCEEDED
        assert "workers answered: 2" in cluster.read_logs("job_beside-1")
        assert chat(cluster, door, "ep_a").is_success

    def test_a_killed_replica_is_replaced(self, cluster: RayCluster, settings: Settings, door: dict[str, str]) -> None:
        put_and_wait(cluster, [endpoint("ep_a")])
        before = replica_process("ep_a", settings)
        before.kill()
        wait_until(lambda: not cluster.observe_applications()["ep_a"].replicas, 60, "its address to go")
        wait_until(lambda: cluster.observe_applications()["ep_a"].replicas, READY_TIMEOUT_S, "a new replica")
        assert chat(cluster, door, "ep_a").is_success
