"""The reconciler of jobs, on SQLite and a cluster in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from finmaas_core.errors import InvalidInput, StaleAttempt
from finmaas_platform.cluster.port import JobSubmission, RunState
from finmaas_platform.db.audit_events import AuditEventRow
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.db.jobs import JobRow
from finmaas_platform.domain.principals import Caller, CallerKind
from finmaas_platform.reconcile.jobs import JobReconciler, keep_tail
from finmaas_platform.services.job_protocol import get_open_attempt

Step = Callable[..., None]


@pytest.fixture
def reconciler(world: Any) -> JobReconciler:
    reconciler = JobReconciler(world.deps)
    reconciler.prepare()
    return reconciler


class TestStart:
    def test_a_new_job_is_handed_to_the_cluster_within_one_look(
        self, world: Any, reconciler: JobReconciler, step: Step
    ) -> None:
        job_id = world.add_job()
        step(reconciler)
        assert world.job(job_id).state == "starting"
        assert world.cluster.submissions == {
            f"{job_id}-1": JobSubmission(
                f"{job_id}-1",
                "python -m finmaas_training.job_main",
                {"FINMAAS_JOB_ID": job_id, "FINMAAS_ATTEMPT": "1"},
                {"finmaas_job": job_id, "finmaas_attempt": "1"},
            )
        }

    def test_a_third_job_waits_and_is_told_why(self, world: Any, reconciler: JobReconciler, step: Step) -> None:
        ids = sorted(world.add_job() for _ in range(4))  # of one millisecond, they are in no other order
        step(reconciler)
        assert [world.job(one).state for one in ids] == ["starting", "starting", "queued", "queued"]
        assert world.job(ids[3]).reason == "waits for its turn: 2 of 2 jobs run, 1 before it"
        assert len(world.cluster.submissions) == 2

    def test_the_token_makes_it_run_and_is_given_once(self, world: Any, reconciler: JobReconciler, step: Step) -> None:
        job_id = world.add_job()
        step(reconciler)
        assert world.fetch_token(job_id, 1).startswith("fmj_")
        assert world.job(job_id).state == "running"
        with pytest.raises(Exception, match="once"):
            world.fetch_token(job_id, 1)

    def test_a_refused_submission_fails_the_job_with_the_clusters_words(
        self, world: Any, reconciler: JobReconciler, step: Step, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_submission: JobSubmission) -> None:
            raise InvalidInput("no such runtime_env")

        monkeypatch.setattr(world.cluster, "submit", refuse)
        job_id = world.add_job()
        step(reconciler, 2)
        job = world.job(job_id)
        assert (job.state, job.reason) == ("failed", "the cluster refuses attempt 1: no such runtime_env")
        assert job.due_at is None


class TestEnds:
    def running(self, world: Any, reconciler: JobReconciler, step: Step) -> str:
        job_id = world.add_job()
        step(reconciler)
        world.fetch_token(job_id, 1)
        world.cluster.set_run(f"{job_id}-1", RunState.RUNNING)
        step(reconciler)
        return str(job_id)

    def test_three_failures_end_it_and_the_logs_stay(self, world: Any, reconciler: JobReconciler, step: Step) -> None:
        job_id = self.running(world, reconciler, step)
        for number in (1, 2, 3):
            world.cluster.write_log(f"{job_id}-{number}", f"boom {number}\n")
            world.cluster.set_run(f"{job_id}-{number}", RunState.FAILED, "Job entrypoint command failed: boom")
            step(reconciler, 6)
        assert world.attempts(job_id) == [(1, "failed"), (2, "failed"), (3, "failed")]
        job = world.job(job_id)
        assert (job.state, job.failures, job.due_at) == ("failed", 3, None)
        assert job.finished_at is not None
        world.cluster.lose_everything()
        assert [world.log(job_id, n) for n in (1, 2, 3)] == ["boom 1\n", "boom 2\n", "boom 3\n"]

    def test_a_new_head_gets_a_new_attempt_and_the_old_one_is_fenced(
        self, world: Any, reconciler: JobReconciler, step: Step
    ) -> None:
        job_id = self.running(world, reconciler, step)
        world.cluster.lose_everything()
        step(reconciler, 2)
        assert world.attempts(job_id) == [(1, "lost"), (2, "starting")]
        assert list(world.cluster.submissions) == [f"{job_id}-2"]
        old = Caller(CallerKind.JOB, job_id, "old", tenant_id=world.job(job_id).tenant_id, job_id=job_id, attempt=1)
        with unit_of_work(world.deps.sessions) as session, pytest.raises(StaleAttempt):
            get_open_attempt(session, old, job_id, 1)

    def test_losses_have_no_limit(self, world: Any, reconciler: JobReconciler, step: Step) -> None:
        job_id = self.running(world, reconciler, step)
        for _ in range(5):
            world.cluster.lose_everything()
            step(reconciler, 40)
        job = world.job(job_id)
        assert (job.state, job.losses, job.failures) == ("starting", 5, 0)

    def test_while_the_cluster_is_away_the_state_stays(self, world: Any, reconciler: JobReconciler, step: Step) -> None:
        job_id = self.running(world, reconciler, step)
        world.cluster.down = True
        step(reconciler)
        job = world.job(job_id)
        assert (job.state, job.attempt) == ("running", 1)
        assert job.reason.startswith("the cluster does not answer")
        world.cluster.down = False
        step(reconciler)
        assert world.job(job_id).reason == "attempt 1 runs"

    def test_cancel_reaches_a_cluster_that_was_away(self, world: Any, reconciler: JobReconciler, step: Step) -> None:
        job_id = self.running(world, reconciler, step)
        world.cluster.down = True
        world.change(JobRow, job_id, cancel_requested=True)
        step(reconciler)
        assert world.job(job_id).state == "running"
        world.cluster.down = False
        step(reconciler, 3)
        assert world.job(job_id).state == "cancelled"
        assert world.cluster.observe_runs()[f"{job_id}-1"].state is RunState.STOPPED

    def test_every_change_of_state_is_audited(self, world: Any, reconciler: JobReconciler, step: Step) -> None:
        job_id = self.running(world, reconciler, step)
        world.change(JobRow, job_id, cancel_requested=True)
        step(reconciler, 3)
        with read_unit(world.deps.sessions) as session:
            query = select(AuditEventRow).where(AuditEventRow.target == job_id).order_by(AuditEventRow.id)
            states = [(row.after or {})["state"] for row in session.scalars(query)]
        assert sorted(states) == sorted(["admitted", "starting", "running", "cancelled"])


class TestLeases:
    def test_a_plan_made_while_a_request_changed_the_job_is_dropped(
        self, world: Any, reconciler: JobReconciler, step: Step, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The run ends after its result came in, but before the reconciler, which looked earlier, has written."""
        job_id = world.add_job()
        step(reconciler)
        observe = world.cluster.observe_runs

        def observe_late() -> Any:
            world.fetch_token(job_id, 1)
            world.cluster.set_run(f"{job_id}-1", RunState.FAILED, "Job entrypoint command failed")
            monkeypatch.undo()
            return observe()

        monkeypatch.setattr(world.cluster, "observe_runs", observe_late)
        world.clock.advance(1)
        reconciler.run_once()
        assert (world.job(job_id).state, world.attempts(job_id)) == ("running", [(1, "running")])

    def test_two_control_planes_do_not_work_on_one_job(self, world: Any, reconciler: JobReconciler) -> None:
        world.add_job()
        other = JobReconciler(world.deps)
        reconciler._admit()
        assert len(reconciler._claim()) == 1
        assert other._claim() == []
        world.clock.advance(61)
        assert len(other._claim()) == 1

    def test_a_restarted_control_plane_need_not_wait_for_its_old_leases(
        self, world: Any, reconciler: JobReconciler, step: Step
    ) -> None:
        job_id = world.add_job()
        reconciler._admit()
        reconciler._claim()
        again = JobReconciler(world.deps)
        again.prepare()
        step(again)
        assert world.job(job_id).state == "starting"


class TestKeepTail:
    def test_keeps_whole_lines_at_the_end(self) -> None:
        assert keep_tail("one\ntwo\nthree\n", 10) == "three\n"
        assert keep_tail("短い\n", 100) == "短い\n"
        assert keep_tail("漢漢漢", 5) == "漢"
        assert keep_tail("a\x00b", 5) == "ab"
