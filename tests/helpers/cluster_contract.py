"""What every adapter of the `Cluster` port must do. The suite runs on the one in memory and on a real Ray.

A subclass gives the fixture `cluster`; `start_running` and `become_ready` say how time passes there.
"""

from __future__ import annotations

from integration_helpers import wait_until

from finmaas_platform.cluster.port import ApplicationState, Cluster, JobSubmission, RunState, ServeApplication

TIMEOUT_S = 120.0
LONG = "python -c 'print(\"contract says hello\", flush=True); import time; time.sleep(600)'"


def submission(name: str, entrypoint: str = LONG) -> JobSubmission:
    return JobSubmission(name, entrypoint, env={"FINMAAS_JOB_ID": name}, metadata={"job": name})


def application(name: str, answer: str = "hello") -> ServeApplication:
    return ServeApplication(name, "cluster_contract_app:build_app", {"answer": answer})


class ClusterContract:
    """Every test leaves the cluster without running jobs and applications of its own."""

    def start_running(self, cluster: Cluster, submission_id: str) -> None:
        wait_until(
            lambda: cluster.observe_runs()[submission_id].state is RunState.RUNNING, TIMEOUT_S, "the run to start"
        )

    def become_ready(self, cluster: Cluster, name: str) -> None:
        wait_until(
            lambda: cluster.observe_applications()[name].state is ApplicationState.RUNNING, TIMEOUT_S, "the application"
        )

    def test_a_submission_is_seen_and_runs(self, cluster: Cluster) -> None:
        cluster.submit(submission("job_seen-1"))
        assert "job_seen-1" in cluster.observe_runs()
        self.start_running(cluster, "job_seen-1")
        cluster.stop("job_seen-1")

    def test_a_repeated_submission_changes_nothing(self, cluster: Cluster) -> None:
        cluster.submit(submission("job_twice-1"))
        self.start_running(cluster, "job_twice-1")
        cluster.submit(submission("job_twice-1"))
        assert cluster.observe_runs()["job_twice-1"].state is RunState.RUNNING
        cluster.stop("job_twice-1")

    def test_a_stopped_run_says_so_for_ever(self, cluster: Cluster) -> None:
        cluster.submit(submission("job_stopped-1"))
        self.start_running(cluster, "job_stopped-1")
        cluster.stop("job_stopped-1")
        wait_until(
            lambda: cluster.observe_runs()["job_stopped-1"].state is RunState.STOPPED, TIMEOUT_S, "the run to stop"
        )
        cluster.stop("job_stopped-1")
        assert cluster.observe_runs()["job_stopped-1"].state is RunState.STOPPED

    def test_an_unknown_run_is_no_error(self, cluster: Cluster) -> None:
        cluster.stop("job_nobody-1")
        assert cluster.read_logs("job_nobody-1") == ""
        assert "job_nobody-1" not in cluster.observe_runs()

    def test_an_application_comes_and_shows_its_arguments(self, cluster: Cluster) -> None:
        cluster.put_applications([application("ep_args")])
        assert cluster.observe_applications()["ep_args"].args == {"answer": "hello"}
        self.become_ready(cluster, "ep_args")
        cluster.put_applications([])

    def test_what_the_document_lacks_goes_and_the_rest_stays(self, cluster: Cluster) -> None:
        cluster.put_applications([application("ep_stays"), application("ep_goes")])
        self.become_ready(cluster, "ep_stays")
        self.become_ready(cluster, "ep_goes")
        before = cluster.observe_applications()["ep_stays"]
        cluster.put_applications([application("ep_stays")])
        wait_until(lambda: set(cluster.observe_applications()) == {"ep_stays"}, TIMEOUT_S, "the other one to go")
        assert cluster.observe_applications()["ep_stays"] == before
        cluster.put_applications([])

    def test_new_arguments_replace_the_old_ones(self, cluster: Cluster) -> None:
        cluster.put_applications([application("ep_new")])
        self.become_ready(cluster, "ep_new")
        cluster.put_applications([application("ep_new", "good bye")])
        wait_until(
            lambda: cluster.observe_applications()["ep_new"].args == {"answer": "good bye"}, TIMEOUT_S, "the new ones"
        )
        cluster.put_applications([])
