"""What a running job tells the control plane: its token, metrics, checkpoints and faults. Its result: `job_results.py`.

Every call names job and attempt, and only the current, open attempt may write: this is what fences a job that was
replaced and does not know it yet. Each call is idempotent, because the job repeats it until it is answered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from finmaas_core.errors import NotAllowed, NotFound, StaleAttempt
from finmaas_core.ids import new_id
from finmaas_platform.db.jobs import AttemptRow, CheckpointRow, JobMetricRow, JobRow
from finmaas_platform.db.leases import break_lease, wake_after_commit
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.jobs import OPEN, AttemptState, JobState
from finmaas_platform.domain.principals import Caller, CallerKind
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.blobs import check_files_are_put
from finmaas_platform.services.job_tokens import issue_job_token
from finmaas_registry.manifest import FileEntry, make_manifest

MAX_ERROR_CHARS = 2000


@dataclass(frozen=True)
class MetricPoint:
    """Named values at one step."""

    step: int
    values: Mapping[str, float]


# --- who may write ----------------------------------------------------------------------------------------------


def get_own_attempt(session: Session, caller: Caller, job_id: str, number: int) -> tuple[JobRow, AttemptRow]:
    """The job and attempt that a job token is for, locked; NotAllowed for any other, StaleAttempt when replaced."""
    if caller.kind is not CallerKind.JOB or (caller.job_id, caller.attempt) != (job_id, number):
        raise NotAllowed(f"this token is not for attempt {number} of {job_id}; fetch that attempt's own")
    job = session.scalar(scoped(select(JobRow), caller).where(JobRow.id == job_id).with_for_update(of=JobRow))
    attempt = session.get(AttemptRow, (job_id, number))
    if job is None or attempt is None:
        raise NotFound(f"there is no attempt {number} of {job_id}")
    if job.attempt != number or attempt.state not in (*OPEN, AttemptState.SUCCEEDED):
        raise _stale(job, number)
    return job, attempt


def get_open_attempt(session: Session, caller: Caller, job_id: str, number: int) -> tuple[JobRow, AttemptRow]:
    """As `get_own_attempt`, for what only an attempt that still runs may do."""
    job, attempt = get_own_attempt(session, caller, job_id, number)
    if attempt.state not in OPEN:
        raise _stale(job, number)
    return job, attempt


def _stale(job: JobRow, number: int) -> StaleAttempt:
    return StaleAttempt(
        f"attempt {number} of {job.id} is over (the job is {job.state}, attempt {job.attempt}); it must end and write "
        "nothing more",
        attempt=job.attempt,
        state=job.state,
    )


# --- the token --------------------------------------------------------------------------------------------------


def issue_token(session: Session, caller: Caller, now: datetime, pepper: str, job_id: str, number: int) -> str:
    """Trades a node's token for the attempt's own: once, and only for the current attempt while it is starting.

    With it the job is running. StaleAttempt for any other attempt; Conflict for a token that was fetched already.
    """
    if caller.kind is not CallerKind.NODE:
        raise NotAllowed("only a node of the cluster may fetch a job's token")
    job = session.get(JobRow, job_id, with_for_update={"of": JobRow})  # unscoped: a node serves every tenant
    attempt = session.get(AttemptRow, (job_id, number))  # unscoped: as above
    if job is None or attempt is None:
        raise NotFound(f"there is no attempt {number} of {job_id}")
    if job.attempt != number or attempt.state not in OPEN or job.cancel_requested:
        raise _stale(job, number)
    token = issue_job_token(session, pepper, job_id, number, job.tenant_id, now)
    attempt.state = AttemptState.RUNNING
    attempt.running_at = now
    move_job(session, caller, job, JobState.RUNNING, f"attempt {number} runs", now)
    return token


def move_job(session: Session, caller: Caller, job: JobRow, state: JobState, reason: str, now: datetime) -> None:
    """Moves a job from within a request: what a reconciler was planning for it is dropped, and planned anew."""
    before = job.state
    job.state = state
    job.reason = reason
    job.version += 1
    if state is JobState.RUNNING and job.started_at is None:
        job.started_at = now
    if state in (JobState.SUCCEEDED, JobState.CANCELLED):
        job.finished_at = now
    break_lease(job, now)
    wake_after_commit(session, "jobs")
    after = {"state": state.value, "reason": reason}
    record_audit(session, caller, now, "job.state", job.id, {"state": before}, after, tenant_id=job.tenant_id)


# --- metrics ----------------------------------------------------------------------------------------------------


def record_metrics(
    session: Session,
    caller: Caller,
    now: datetime,
    job_id: str,
    number: int,
    points: Sequence[MetricPoint],
    progress: Mapping[str, Any] | None,
) -> bool:
    """Stores points, a repeated step over the earlier one, and the progress; returns whether the job should end.

    A value that is not finite (a loss that ran away) is left out: JSON has no word for it.
    """
    job, attempt = get_open_attempt(session, caller, job_id, number)
    stored = _find_points(session, job_id, [point.step for point in points])
    for point in points:
        values = {name: value for name, value in point.values.items() if math.isfinite(value)}
        row = stored.get(point.step)
        if row is None:
            row = stored[point.step] = JobMetricRow(job_id=job_id, step=point.step, tenant_id=job.tenant_id)
            session.add(row)
        row.attempt, row.values, row.at = attempt.number, values, now
    if points:
        newest = max(points, key=lambda point: point.step)
        job.metrics = {**job.metrics, **stored[newest.step].values}
    if progress is not None:
        job.progress = dict(progress)
    job.version += 1
    return job.cancel_requested


def _find_points(session: Session, job_id: str, steps: Sequence[int]) -> dict[int, JobMetricRow]:
    if not steps:
        return {}
    query = select(JobMetricRow).where(JobMetricRow.job_id == job_id, JobMetricRow.step.in_(steps))
    return {row.step: row for row in session.scalars(query)}


# --- checkpoints ------------------------------------------------------------------------------------------------


def record_checkpoint(
    session: Session,
    caller: Caller,
    now: datetime,
    job_id: str,
    number: int,
    step: int,
    files: Sequence[FileEntry],
    state: Mapping[str, Any],
) -> CheckpointRow:
    """Makes an uploaded checkpoint known; InvalidInput for files that were not put. The same step again changes it."""
    job, attempt = get_open_attempt(session, caller, job_id, number)
    manifest = make_manifest(files)
    check_files_are_put(session, caller, manifest.files)
    query = select(CheckpointRow).where(
        CheckpointRow.job_id == job_id, CheckpointRow.attempt == attempt.number, CheckpointRow.step == step
    )
    row = session.scalar(query)
    if row is None:
        row = CheckpointRow(id=new_id("checkpoint"), job_id=job_id, attempt=attempt.number, step=step, created_at=now)
        row.tenant_id = job.tenant_id
        session.add(row)
    row.files = [file.as_json() for file in manifest.files]
    row.state = dict(state)
    return row


def get_latest_checkpoint(session: Session, caller: Caller, job_id: str, number: int) -> CheckpointRow:
    """The checkpoint of the highest step that any attempt of this job has reached; NotFound before the first."""
    get_open_attempt(session, caller, job_id, number)
    query = select(CheckpointRow).where(CheckpointRow.job_id == job_id)
    row = session.scalar(query.order_by(CheckpointRow.step.desc(), CheckpointRow.attempt.desc()).limit(1))
    if row is None:
        raise NotFound(f"{job_id} has no checkpoint yet; start from the base")
    return row


# --- faults -----------------------------------------------------------------------------------------------------


def record_failure(
    session: Session, caller: Caller, now: datetime, job_id: str, number: int, message: str, final: bool
) -> None:
    """Notes why an attempt is about to end, in words for the user; `final` when another try would fare no better.

    What follows from it is decided when the cluster tells that the run is over.
    """
    job, attempt = get_open_attempt(session, caller, job_id, number)
    attempt.error = message[:MAX_ERROR_CHARS]
    attempt.error_is_final = final
    break_lease(job, now)
