"""The plan of a job, as tables of cases compared whole; and a walk through random clusters."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finmaas_platform.cluster.port import ObservedRun, RunState
from finmaas_platform.domain.jobs import (
    FINISHED,
    MAX_FAILURES,
    TRANSITIONS,
    Attempt,
    AttemptState,
    Job,
    JobState,
    KeepLog,
    Plan,
    Stop,
    Submit,
    decide_admissions,
    is_loss,
    plan_job,
    shorten,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
S = JobState
A = AttemptState


def job(state: JobState, **values: object) -> Job:
    return Job(id="job_1", state=state, **values)  # type: ignore[arg-type]


def starting(submitted: bool = False, **values: object) -> Job:
    return job(S.STARTING, attempt=1, attempts=(Attempt(1, A.STARTING, submitted),), **values)


def running(number: int = 1, **values: object) -> Job:
    return job(S.RUNNING, attempt=number, attempts=(Attempt(number, A.RUNNING, True),), **values)


def runs(state: RunState, message: str = "", number: int = 1) -> dict[str, ObservedRun]:
    name = f"job_1-{number}"
    return {name: ObservedRun(name, state, message)}


class TestDecideAdmissions:
    def test_oldest_first_and_each_is_told_its_place(self) -> None:
        queue = [replace(job(S.QUEUED), id=f"job_{n}") for n in range(4)]
        decisions = decide_admissions(queue, live=1, max_live=2)
        assert [d.admitted for d in decisions] == [True, False, False, False]
        assert decisions[1].reason == "waits for its turn: 2 of 2 jobs run, it is next"
        assert decisions[3].reason == "waits for its turn: 2 of 2 jobs run, 2 before it"

    def test_more_live_than_allowed_admits_nothing(self) -> None:
        assert not decide_admissions([job(S.QUEUED)], live=5, max_live=2)[0].admitted


class TestPlanJob:
    @pytest.mark.parametrize(
        ("before", "observed", "expected"),
        [
            pytest.param(
                job(S.ADMITTED),
                {},
                Plan(S.STARTING, "attempt 1 is handed to the cluster", opens_attempt=True, next_look_s=0),
                id="an admitted job gets an attempt before anything is submitted",
            ),
            pytest.param(
                job(S.ADMITTED, reason="attempt 1 was lost", not_before=NOW + timedelta(seconds=0.5)),
                {},
                Plan(S.ADMITTED, "attempt 1 was lost", next_look_s=0.5),
                id="a pause before the next attempt is kept",
            ),
            pytest.param(
                starting(),
                {},
                Plan(S.STARTING, "attempt 1 is with the cluster and starts", (Submit(1),), marks_submitted=True),
                id="an attempt is submitted",
            ),
            pytest.param(
                starting(),
                runs(RunState.PENDING),
                Plan(S.STARTING, "attempt 1 waits for free slots of the cluster", marks_submitted=True),
                id="killed after the submission: it is found, not repeated",
            ),
            pytest.param(
                starting(submitted=True),
                runs(RunState.RUNNING),
                Plan(S.STARTING, "attempt 1 is with the cluster and starts"),
                id="starting until the job fetches its token",
            ),
            pytest.param(running(), runs(RunState.RUNNING), Plan(S.RUNNING, "attempt 1 runs"), id="running"),
            pytest.param(
                running(),
                {},
                Plan(
                    S.ADMITTED,
                    "attempt 1 was lost: the cluster was restarted and does not know it any more; "
                    "attempt 2 starts at once from the last checkpoint",
                    closes_attempt=A.LOST,
                    counts_loss=True,
                    next_look_s=0,
                ),
                id="a new head does not know the run: lost",
            ),
            pytest.param(
                running(failures=2, losses=3),
                runs(RunState.FAILED, "Job supervisor actor died: node gone"),
                Plan(
                    S.ADMITTED,
                    "attempt 1 was lost: Job supervisor actor died: node gone; "
                    "attempt 2 starts in 7 s from the last checkpoint",
                    closes_attempt=A.LOST,
                    counts_loss=True,
                    wait_s=7,
                    next_look_s=0,
                ),
                id="the cluster's fault never counts against the job, but pauses grow",
            ),
            pytest.param(
                running(),
                runs(RunState.FAILED, "Job entrypoint command failed with exit code 1\nlogs:\nValueError: x"),
                Plan(
                    S.ADMITTED,
                    "attempt 1 failed: Job entrypoint command failed with exit code 1 … ValueError: x; "
                    "attempt 2 starts in 3 s",
                    closes_attempt=A.FAILED,
                    counts_failure=True,
                    wait_s=3,
                    next_look_s=0,
                ),
                id="a failure is tried again",
            ),
            pytest.param(
                running(3, failures=2),
                runs(RunState.FAILED, "Job entrypoint command failed", 3),
                Plan(
                    S.FAILED,
                    "attempt 3 failed: Job entrypoint command failed (the last of 3 tries)",
                    closes_attempt=A.FAILED,
                    counts_failure=True,
                    next_look_s=0,
                ),
                id="the third failure is the last",
            ),
            pytest.param(
                running(1, failures=2),
                runs(RunState.SUCCEEDED),
                Plan(
                    S.FAILED,
                    "attempt 1 failed: its process ended without handing in a result; see the log "
                    "(the last of 3 tries)",
                    closes_attempt=A.FAILED,
                    counts_failure=True,
                    next_look_s=0,
                ),
                id="the cluster's success without a result is a failure",
            ),
            pytest.param(
                job(
                    S.RUNNING,
                    attempt=1,
                    attempts=(Attempt(1, A.RUNNING, True, error="the loss is not a number", error_is_final=True),),
                ),
                runs(RunState.FAILED, "Job entrypoint command failed"),
                Plan(
                    S.FAILED,
                    "attempt 1 failed: the loss is not a number",
                    closes_attempt=A.FAILED,
                    counts_failure=True,
                    next_look_s=0,
                ),
                id="what the job reports wins, and a final error is not tried again",
            ),
            pytest.param(
                running(),
                None,
                Plan(S.RUNNING, "the cluster does not answer; the job goes on, or is started again, when it is back"),
                id="away: the state stays and the reason says so",
            ),
            pytest.param(
                job(S.ADMITTED),
                None,
                Plan(S.ADMITTED, "the cluster does not answer; the job starts when it is back"),
                id="away before the start",
            ),
            pytest.param(
                running(cancel_requested=True),
                runs(RunState.RUNNING),
                Plan(S.RUNNING, "is being cancelled", (Stop(1),)),
                id="cancel stops the run first",
            ),
            pytest.param(
                running(cancel_requested=True),
                runs(RunState.STOPPED),
                Plan(S.CANCELLED, "cancelled", closes_attempt=A.CANCELLED, next_look_s=0),
                id="stopped: cancelled",
            ),
            pytest.param(
                running(cancel_requested=True),
                {},
                Plan(S.CANCELLED, "cancelled", closes_attempt=A.CANCELLED, next_look_s=0),
                id="cancelled while the cluster was away and came back empty",
            ),
            pytest.param(
                running(cancel_requested=True),
                None,
                Plan(S.RUNNING, "the cluster does not answer; the job is cancelled as soon as it is back"),
                id="cancel waits for the cluster",
            ),
            pytest.param(
                job(S.ADMITTED, attempt=1, cancel_requested=True),
                {},
                Plan(S.CANCELLED, "cancelled before it ran", next_look_s=0),
                id="nothing runs: nothing to stop",
            ),
        ],
    )
    def test_decides(self, before: Job, observed: dict[str, ObservedRun] | None, expected: Plan) -> None:
        assert plan_job(before, observed, NOW) == expected


class TestPlanOfClosedAttempts:
    def finished(self, seconds_ago: float = 1, state: AttemptState = A.SUCCEEDED) -> Job:
        closed = Attempt(1, state, True, closed_at=NOW - timedelta(seconds=seconds_ago))
        return job(S.SUCCEEDED, reason="done", attempt=1, attempts=(closed,))

    def test_a_run_that_handed_in_its_result_may_end_by_itself(self) -> None:
        assert plan_job(self.finished(), runs(RunState.RUNNING), NOW) == Plan(S.SUCCEEDED, "done")

    def test_but_not_linger(self) -> None:
        assert plan_job(self.finished(61), runs(RunState.RUNNING), NOW) == Plan(S.SUCCEEDED, "done", (Stop(1),))

    def test_the_log_is_kept_when_the_run_is_over_and_then_all_is_settled(self) -> None:
        expected = Plan(S.SUCCEEDED, "done", (KeepLog(1),), settled=True)
        assert plan_job(self.finished(), runs(RunState.SUCCEEDED), NOW) == expected

    def test_a_log_that_died_with_its_head_is_given_up(self) -> None:
        expected = Plan(S.SUCCEEDED, "done", (KeepLog(1, give_up=True),), settled=True)
        assert plan_job(self.finished(), {}, NOW) == expected

    def test_settling_waits_for_a_cluster_that_is_away(self) -> None:
        plan = plan_job(self.finished(), None, NOW)
        assert (plan.settled, plan.actions, plan.state) == (False, (), S.SUCCEEDED)

    def test_nothing_to_keep_is_settled_even_without_a_cluster(self) -> None:
        assert plan_job(job(S.CANCELLED), None, NOW).settled

    def test_a_lost_attempt_that_reappears_is_stopped(self) -> None:
        both = (Attempt(1, A.LOST, True, closed_at=NOW), Attempt(2, A.RUNNING, True))
        plan = plan_job(
            job(S.RUNNING, attempt=2, attempts=both), runs(RunState.RUNNING) | runs(RunState.RUNNING, "", 2), NOW
        )
        assert plan.actions == (Stop(1),)


class TestIsLoss:
    @pytest.mark.parametrize(
        ("message", "loss"),
        [
            ("Job supervisor actor died: The actor died because its node has died.", True),
            ("Job supervisor actor could not be scheduled: ...", True),
            ("Job entrypoint command failed with exit code 1, last available logs: ActorDiedError", False),
            ("Failed to set up runtime environment. Job supervisor actor died", False),
            ("", False),
        ],
    )
    def test_tells_the_cluster_from_the_job(self, message: str, loss: bool) -> None:
        assert is_loss(message) is loss


class TestShorten:
    def test_keeps_first_and_last_line(self) -> None:
        assert shorten("failed:\n a\n\n b \n") == "failed … b"

    def test_cuts(self) -> None:
        assert len(shorten("x" * 1000)) == 300


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(["away", "empty", "same", "fetched", "cancel", *RunState]),
        max_size=40,
    )
)
def test_any_cluster_leads_along_the_table_and_never_to_too_many_failures(events: list[str]) -> None:
    """Plays random observations; each step follows TRANSITIONS, attempts never overlap, ends stay ends."""
    now = NOW
    current = job(S.ADMITTED)
    observed: dict[str, ObservedRun] = {}
    for event in events:
        now += timedelta(seconds=61)
        if event == "cancel":
            current = replace(current, cancel_requested=True)
        elif event == "fetched" and current.state is S.STARTING and current.attempts[-1].submitted:
            open_attempt = replace(current.attempts[-1], state=A.RUNNING)
            current = replace(current, state=S.RUNNING, attempts=(open_attempt,))
        elif event == "empty":
            observed = {}
        elif event in set(RunState):
            observed = {
                name: replace(run, state=RunState(event)) if run.state in (RunState.PENDING, RunState.RUNNING) else run
                for name, run in observed.items()
            }
        plan = plan_job(current, None if event == "away" else observed, now)
        assert plan.state is current.state or plan.state in TRANSITIONS[current.state]
        assert plan.reason or not current.reason
        current = _apply(current, plan, observed, now)
        assert sum(a.state in (A.STARTING, A.RUNNING) for a in current.attempts) == (
            current.state in (S.STARTING, S.RUNNING)
        )
        assert current.failures <= MAX_FAILURES
        if current.state in FINISHED and current.state is not S.CANCELLED:
            assert current.failures == MAX_FAILURES


def _apply(current: Job, plan: Plan, observed: dict[str, ObservedRun], now: datetime) -> Job:
    for action in plan.actions:
        if isinstance(action, Submit):
            name = f"job_1-{action.attempt}"
            assert name not in observed
            observed[name] = ObservedRun(name, RunState.PENDING)
    attempts = current.attempts
    if plan.closes_attempt:
        attempts = ()
    if plan.marks_submitted:
        attempts = (replace(attempts[-1], submitted=True),)
    if plan.opens_attempt:
        attempts = (Attempt(current.attempt + 1, A.STARTING),)
    return replace(
        current,
        state=plan.state,
        reason=plan.reason,
        attempt=current.attempt + plan.opens_attempt,
        failures=current.failures + plan.counts_failure,
        losses=current.losses + plan.counts_loss,
        not_before=now + timedelta(seconds=plan.wait_s),
        attempts=attempts,
    )
