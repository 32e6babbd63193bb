"""A control plane killed between any two steps of a job's life: nothing is lost, nothing is done twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, select

from finmaas_platform.cluster.memory import MemoryCluster
from finmaas_platform.cluster.port import JobSubmission, RunState
from finmaas_platform.db.audit_events import AuditEventRow
from finmaas_platform.db.base import read_unit
from finmaas_platform.reconcile.jobs import JobReconciler


class KilledError(BaseException):
    """Not an Exception: nothing in the control plane may catch it, as nothing catches SIGKILL."""


class Killer:
    """Kills at the n-th point: before and after each commit, and before and after each call to the cluster."""

    def __init__(self) -> None:
        self.at = -1
        self.passed = 0

    def point(self, *_: object) -> None:
        self.passed += 1
        if self.passed == self.at:
            raise KilledError


@pytest.fixture
def killer(world: Any, cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Killer]:
    killer = Killer()
    for name in ("submit", "stop", "read_logs", "observe_runs"):
        monkeypatch.setattr(cluster, name, surround(killer, getattr(cluster, name)))
    for moment in ("before_commit", "after_commit"):
        event.listen(world.deps.sessions, moment, killer.point)
    yield killer
    for moment in ("before_commit", "after_commit"):
        event.remove(world.deps.sessions, moment, killer.point)


def surround(killer: Killer, call: Any) -> Any:
    def killed_around(*args: Any) -> Any:
        killer.point()
        result = call(*args)
        killer.point()
        return result

    return killed_around


class Scenario:
    """One life of a job: submitted, running, failed once, lost once, cancelled; the cluster plays along."""

    def __init__(self, world: Any, killer: Killer) -> None:
        self.world, self.killer = world, killer
        self.submitted: list[str] = []
        self.kills = 0
        submit = world.cluster.submit

        def count(submission: JobSubmission) -> None:
            known = submission.submission_id in world.cluster.submissions
            try:
                submit(submission)
            finally:
                if not known and submission.submission_id in world.cluster.submissions:
                    self.submitted.append(submission.submission_id)

        world.cluster.submit = count

    def run(self, kill_at: int) -> None:
        world, cluster = self.world, self.world.cluster
        job_id = world.add_job()
        self.killer.at, self.killer.passed = kill_at, 0
        self.until(lambda: f"{job_id}-1" in cluster.submissions)
        self.quietly(lambda: cluster.set_run(f"{job_id}-1", RunState.RUNNING))
        self.quietly(lambda: world.fetch_token(job_id, 1))
        cluster.write_log(f"{job_id}-1", "first\n")
        cluster.set_run(f"{job_id}-1", RunState.FAILED, "Job entrypoint command failed")
        self.until(lambda: f"{job_id}-2" in cluster.submissions)
        self.quietly(lambda: world.fetch_token(job_id, 2))
        self.until(lambda: self.quietly(lambda: world.log(job_id, 1)) is not None)
        cluster.lose_everything()
        self.until(lambda: f"{job_id}-3" in cluster.submissions)
        self.quietly(lambda: world.fetch_token(job_id, 3))
        self.quietly(lambda: world.change(type(world.job(job_id)), job_id, cancel_requested=True))
        self.until(lambda: self.quietly(lambda: world.job(job_id)).due_at is None)
        self.job_id = job_id

    def quietly(self, act: Any) -> Any:
        """What the test or the cluster does is not killed."""
        at, self.killer.at = self.killer.at, -1
        passed = self.killer.passed
        try:
            return act()
        finally:
            self.killer.at, self.killer.passed = at, passed

    def until(self, done: Any) -> None:
        reconciler = None
        for _ in range(200):
            if self.quietly(done):
                return
            self.world.clock.advance(1)
            try:
                if reconciler is None:
                    reconciler = JobReconciler(self.world.deps)
                    reconciler.prepare()
                reconciler.run_once()
            except KilledError:
                self.kills += 1
                reconciler = None  # a new process
        raise AssertionError(f"never done: {self.quietly(lambda: vars(self.world.job(self.world.made[-1])))}")


def test_killed_at_every_point_the_job_ends_as_if_it_had_not_been(world: Any, killer: Killer) -> None:
    scenario = Scenario(world, killer)
    scenario.run(kill_at=-1)
    points = killer.passed
    assert points > 60
    for kill_at in range(1, points + 1):
        scenario.submitted.clear()
        before = scenario.kills
        scenario.run(kill_at)
        assert scenario.kills == before + 1, f"point {kill_at} was never reached"
        job = scenario.job_id
        assert scenario.submitted == [f"{job}-1", f"{job}-2", f"{job}-3"], f"killed at point {kill_at}"
        assert world.attempts(job) == [(1, "failed"), (2, "lost"), (3, "cancelled")], f"killed at point {kill_at}"
        assert world.log(job, 1) == "first\n"
        row = world.job(job)
        assert (row.state, row.failures, row.losses) == ("cancelled", 1, 1), f"killed at point {kill_at}"
        assert audited_states(world, job) == [
            "admitted", "starting", "running", "admitted", "starting", "running", "admitted", "starting", "running",
            "cancelled",
        ], f"killed at point {kill_at}"  # fmt: skip


def audited_states(world: Any, job_id: str) -> list[str]:
    with read_unit(world.deps.sessions) as session:
        query = select(AuditEventRow).where(AuditEventRow.target == job_id).order_by(AuditEventRow.at)
        rows = list(session.scalars(query))
    return [(row.after or {})["state"] for row in sorted(rows, key=lambda row: (row.at, row.id))]
