"""Moves jobs: admits those that wait, then claims, observes, plans and applies for each that is due.

What to do is decided in `domain/jobs.py`. Here the order keeps it safe to be killed anywhere: a row names the attempt
before the cluster hears of it; the actions, which may be repeated, come before the one transaction that tells of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from finmaas_core.errors import InvalidInput, Unavailable
from finmaas_core.telemetry import get_logger
from finmaas_platform.cluster.port import JobSubmission, ObservedRun
from finmaas_platform.db.base import unit_of_work
from finmaas_platform.db.jobs import AttemptRow, JobRow, to_job
from finmaas_platform.db.leases import (
    SharedWorkRow,
    claim,
    ensure_shared_work,
    is_only_control_plane,
    release_all,
    update_leased,
)
from finmaas_platform.deps import Deps
from finmaas_platform.domain.jobs import (
    FINISHED,
    LIVE,
    OPEN,
    POLL_S,
    AttemptState,
    Job,
    JobState,
    KeepLog,
    Plan,
    Stop,
    Submit,
    decide_admissions,
    plan_job,
    plan_refused,
    submission_id,
)
from finmaas_platform.services.audit import SYSTEM, record_audit

ENTRYPOINT = "python -m finmaas_training.job_main"
ADMISSION = "admission"
LOG_KEPT_BYTES = 1024 * 1024
"""How much of the end of a log outlives the cluster."""

log = get_logger()


@dataclass(frozen=True)
class Claimed:
    """A leased job, as it was when the lease was taken."""

    row: JobRow
    job: Job
    token: str


class JobReconciler:
    """The reconciler of jobs; see `reconcile/loop.py` for how it is run."""

    name = "jobs"

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    def prepare(self) -> None:
        """Makes the row under which admission is decided; frees the leases of a killed predecessor."""
        now = self._deps.clock.now()
        with unit_of_work(self._deps.sessions) as session:
            ensure_shared_work(session, ADMISSION, now)
            if is_only_control_plane(self._deps.sessions):
                release_all(session, JobRow, now)

    def run_once(self) -> float:
        """One step for every job that is due; returns the seconds until the next look."""
        self._admit()
        claimed = self._claim()
        if not claimed:
            return POLL_S
        runs = self._observe()
        return min(self._reconcile(one, runs) for one in claimed)

    # --- admission --------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        now = self._deps.clock.now()
        with unit_of_work(self._deps.sessions) as session:
            queue = session.scalars(select(JobRow).where(JobRow.state == JobState.QUEUED).order_by(JobRow.id)).all()
            if not queue:
                return
            locks = claim(session, SharedWorkRow, now, SharedWorkRow.id == ADMISSION)
            if not locks:
                return  # another control plane decides at this moment
            live = session.scalar(select(func.count()).where(JobRow.state.in_(LIVE))) or 0
            decisions = decide_admissions([to_job(row, []) for row in queue], live)
            for row, decision in zip(queue, decisions, strict=True):
                state = JobState.ADMITTED if decision.admitted else JobState.QUEUED
                if (state, decision.reason) != (row.state, row.reason):
                    _admit_row(session, row, state, decision.reason, now)
            update_leased(session, locks[0], locks[0].lease_token or "", {"due_at": now})

    # --- claim, observe, plan, apply --------------------------------------------------------------------------------

    def _claim(self) -> list[Claimed]:
        now = self._deps.clock.now()
        with unit_of_work(self._deps.sessions) as session:
            rows = claim(session, JobRow, now, JobRow.state != JobState.QUEUED)
            return [Claimed(row, to_job(row, _attempts(session, row)), row.lease_token or "") for row in rows]

    def _observe(self) -> Mapping[str, ObservedRun] | None:
        try:
            return self._deps.cluster.observe_runs()
        except Unavailable as error:
            log.info("cluster.away", error=error.message)
            return None

    def _reconcile(self, claimed: Claimed, runs: Mapping[str, ObservedRun] | None) -> float:
        """Plans and applies for one job; another job's trouble is not this one's."""
        try:
            plan = plan_job(claimed.job, runs, self._deps.clock.now())
            plan, logs = self._act(claimed.job, plan)
            self._apply(claimed, plan, logs)
        except Exception:
            log.exception("job.reconcile_failed", job=claimed.job.id)
            return POLL_S
        return plan.next_look_s

    def _act(self, job: Job, plan: Plan) -> tuple[Plan, dict[int, str]]:
        """Carries out the actions; returns the plan as things then stand, and the logs that were read, by attempt."""
        logs: dict[int, str] = {}
        try:
            for action in plan.actions:
                match action:
                    case Submit(attempt):
                        refusal = self._submit(job, attempt)
                        plan = plan_refused(job, refusal) if refusal else plan
                    case Stop(attempt):
                        self._deps.cluster.stop(submission_id(job.id, attempt))
                    case KeepLog(attempt, give_up):
                        logs[attempt] = self._read_log(job, attempt, give_up)
        except Unavailable as error:
            log.info("cluster.away", job=job.id, error=error.message)
            return plan_job(job, None, self._deps.clock.now()), logs
        return plan, logs

    def _submit(self, job: Job, attempt: int) -> str:
        """Hands an attempt to the cluster; returns why the cluster will not have it, or an empty text."""
        try:
            self._deps.cluster.submit(make_submission(job, attempt))
        except InvalidInput as error:
            return error.message
        log.info("job.submitted", job=job.id, attempt=attempt)
        return ""

    def _read_log(self, job: Job, attempt: int, give_up: bool) -> str:
        try:
            text = self._deps.cluster.read_logs(submission_id(job.id, attempt))
        except (Unavailable, InvalidInput) as error:
            if not give_up and isinstance(error, Unavailable):
                raise
            text = ""
        return keep_tail(text)

    def _apply(self, claimed: Claimed, plan: Plan, logs: Mapping[int, str]) -> None:
        now = self._deps.clock.now()
        with unit_of_work(self._deps.sessions) as session:
            if not update_leased(session, claimed.row, claimed.token, _job_values(claimed.job, plan, now)):
                log.info("job.plan_dropped", job=claimed.job.id, planned=plan.state)
                return
            _apply_attempts(session, claimed, plan, logs, now)
            if plan.state != claimed.job.state:
                _audit(session, claimed.row, claimed.job.state, plan.state, plan.reason, now)


def make_submission(job: Job, attempt: int) -> JobSubmission:
    """What the cluster is told of an attempt: names only. The job fetches its inputs with a token of its own."""
    return JobSubmission(
        submission_id=submission_id(job.id, attempt),
        entrypoint=ENTRYPOINT,
        env={"FINMAAS_JOB_ID": job.id, "FINMAAS_ATTEMPT": str(attempt)},
        metadata={"finmaas_job": job.id, "finmaas_attempt": str(attempt)},
    )


def keep_tail(text: str, limit_bytes: int = LOG_KEPT_BYTES) -> str:
    """The end of a log, at most `limit_bytes` long, from the start of a line; without NUL, which PostgreSQL refuses."""
    body = text.replace("\x00", "").encode()
    if len(body) <= limit_bytes:
        return body.decode()
    tail = body[-limit_bytes:].decode(errors="ignore")
    return tail.partition("\n")[2] or tail


def _attempts(session: Session, row: JobRow) -> list[AttemptRow]:
    query = select(AttemptRow).where(AttemptRow.job_id == row.id).order_by(AttemptRow.number)
    return [one for one in session.scalars(query) if one.state in OPEN or not one.log_kept]


def _job_values(job: Job, plan: Plan, now: datetime) -> dict[str, Any]:
    values: dict[str, Any] = {
        "state": plan.state.value,
        "reason": plan.reason,
        "attempt": job.attempt + plan.opens_attempt,
        "failures": job.failures + plan.counts_failure,
        "losses": job.losses + plan.counts_loss,
        "due_at": None if plan.settled else now + timedelta(seconds=plan.next_look_s),
    }
    if plan.closes_attempt is not None:
        values["not_before"] = now + timedelta(seconds=plan.wait_s)
    if plan.state in FINISHED and job.state not in FINISHED:
        values["finished_at"] = now
    if (plan.state, plan.reason) != (job.state, job.reason):
        values["version"] = JobRow.version + 1
    return values


def _apply_attempts(session: Session, claimed: Claimed, plan: Plan, logs: Mapping[int, str], now: datetime) -> None:
    job = claimed.job
    if plan.opens_attempt:
        session.add(
            AttemptRow(
                job_id=job.id,
                number=job.attempt + 1,
                tenant_id=claimed.row.tenant_id,
                state=AttemptState.STARTING.value,
                created_at=now,
            )
        )
    if plan.marks_submitted:
        _update_attempt(session, job.id, job.attempt, {"submitted_at": now})
    if plan.closes_attempt is not None:
        closed = {"state": plan.closes_attempt.value, "reason": plan.reason, "closed_at": now}
        _update_attempt(session, job.id, job.attempt, closed)
    for attempt, text in logs.items():
        _update_attempt(session, job.id, attempt, {"log": text, "log_kept": True})


def _update_attempt(session: Session, job_id: str, number: int, values: dict[str, Any]) -> None:
    session.execute(
        update(AttemptRow)
        .where(AttemptRow.job_id == job_id, AttemptRow.number == number)
        .values(values)
        .execution_options(synchronize_session=False)
    )


def _admit_row(session: Session, row: JobRow, state: JobState, reason: str, now: datetime) -> None:
    result = session.execute(
        update(JobRow)
        .where(JobRow.id == row.id, JobRow.state == JobState.QUEUED)
        .values(state=state.value, reason=reason, version=JobRow.version + 1, due_at=now)
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    if result.rowcount and state is JobState.ADMITTED:
        _audit(session, row, JobState.QUEUED, state, reason, now)


def _audit(session: Session, row: JobRow, before: JobState, after: JobState, reason: str, now: datetime) -> None:
    log.info("job.state", job=row.id, before=before, after=after, reason=reason)
    record_audit(
        session,
        SYSTEM,
        now,
        "job.state",
        row.id,
        {"state": before.value},
        {"state": after.value, "reason": reason},
        tenant_id=row.tenant_id,
    )
