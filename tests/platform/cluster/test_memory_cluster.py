"""The cluster in memory against the contract, and what tests make it do."""

from __future__ import annotations

import pytest
from cluster_contract import ClusterContract, application, submission

from finmaas_core.errors import Unavailable
from finmaas_platform.cluster.memory import MemoryCluster
from finmaas_platform.cluster.port import ApplicationState, Cluster, RunState


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


class TestContract(ClusterContract):
    def start_running(self, cluster: Cluster, submission_id: str) -> None:
        assert isinstance(cluster, MemoryCluster)
        cluster.set_run(submission_id, RunState.RUNNING)

    def become_ready(self, cluster: Cluster, name: str) -> None:
        assert isinstance(cluster, MemoryCluster)
        cluster.set_application(name, ApplicationState.RUNNING, replicas=["127.0.0.1:8120"])


class TestMemoryCluster:
    def test_every_call_fails_while_it_is_down(self, cluster: MemoryCluster) -> None:
        cluster.down = True
        for call in (cluster.observe_runs, cluster.observe_applications, lambda: cluster.submit(submission("job-1"))):
            with pytest.raises(Unavailable):
                call()

    def test_a_new_head_knows_nothing(self, cluster: MemoryCluster) -> None:
        cluster.submit(submission("job_1-1"))
        cluster.put_applications([application("ep_1")])
        cluster.lose_everything()
        assert (cluster.observe_runs(), cluster.observe_applications()) == ({}, {})

    def test_logs_are_read_from_an_offset_on(self, cluster: MemoryCluster) -> None:
        cluster.write_log("job_1-1", "one\ntwo\n")
        assert cluster.read_logs("job_1-1", offset=4) == "two\n"
