"""A job's inputs, and its result: the one transaction that makes model version, lineage, audit and success."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from finmaas_core.errors import Conflict, InvalidInput
from finmaas_platform.db.base import read_unit
from finmaas_platform.db.datasets import DatasetVersionRow
from finmaas_platform.db.jobs import AttemptRow, JobRow
from finmaas_platform.db.models import ModelVersionRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.deps import Deps
from finmaas_platform.domain.jobs import AttemptState, JobKind, JobState
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.evaluations import store_evaluation
from finmaas_platform.services.job_protocol import get_open_attempt, get_own_attempt, move_job
from finmaas_platform.services.model_checks import CheckedModel, check_model
from finmaas_platform.services.models import Author, register_model_version
from finmaas_registry.manifest import FileEntry


@dataclass(frozen=True)
class JobInputs:
    """What an attempt works on: the versions that were pinned when the job was made."""

    job: JobRow
    dataset: DatasetVersionRow
    base: ModelVersionRow | None
    subject: ModelVersionRow | None


def get_inputs(session: Session, caller: Caller, job_id: str, number: int) -> JobInputs:
    """The inputs of an attempt that runs."""
    job, _ = get_open_attempt(session, caller, job_id, number)
    query = scoped(select(DatasetVersionRow), caller).where(DatasetVersionRow.id == job.dataset_version_id)
    return JobInputs(
        job,
        session.scalars(query).one(),
        _find_version(session, caller, job.base_version_id),
        _find_version(session, caller, job.subject_version_id),
    )


def check_result(
    deps: Deps, caller: Caller, job_id: str, number: int, files: Sequence[FileEntry]
) -> CheckedModel | None:
    """Looks at the files of a result, before the transaction that takes it; None when it was taken already."""
    with read_unit(deps.sessions) as session:
        job, _ = _get_unfinished(session, caller, job_id, number, JobKind.TRAINING)
        if job.state == JobState.SUCCEEDED:
            return None
    return check_model(deps, caller, "full", files)


def complete_training(
    session: Session,
    caller: Caller,
    now: datetime,
    job_id: str,
    number: int,
    checked: CheckedModel | None,
    metrics: Mapping[str, Any],
    materials: Mapping[str, Any] | None = None,
) -> JobRow:
    """Registers the model version, with its lineage, and ends the job. Handing it in again changes nothing."""
    job, attempt = _get_unfinished(session, caller, job_id, number, JobKind.TRAINING)
    if job.state == JobState.SUCCEEDED or checked is None:
        return job
    version = register_model_version(
        session,
        caller,
        now,
        job.project,
        job.spec["output"],
        checked,
        base_version_id=job.base_version_id,
        job_id=job.id,
        dataset_version_id=job.dataset_version_id,
        metrics=metrics,
        author=Author(job.author_id, tuple(job.author_token_holders)),
        materials=materials,
    )
    result = {"model_version_id": version.id, "model_version": version.ref, "metrics": dict(metrics)}
    return _succeed(session, caller, job, attempt, result, f"made {version.ref}", now)


def complete_evaluation(
    session: Session,
    caller: Caller,
    now: datetime,
    job_id: str,
    number: int,
    scores: Mapping[str, Any],
    details: Mapping[str, Any],
) -> JobRow:
    """Stores scores with the model version under test and ends the job. Handing them in again changes nothing."""
    job, attempt = _get_unfinished(session, caller, job_id, number, JobKind.EVALUATION)
    if job.state == JobState.SUCCEEDED:
        return job
    version = store_evaluation(session, caller, now, job, scores)
    result = {
        "model_version_id": version.id,
        "model_version": version.ref,
        "scores": dict(scores),
        "details": dict(details),
    }
    return _succeed(session, caller, job, attempt, result, f"scored {version.ref}", now)


def _get_unfinished(
    session: Session, caller: Caller, job_id: str, number: int, kind: JobKind
) -> tuple[JobRow, AttemptRow]:
    job, attempt = get_own_attempt(session, caller, job_id, number)
    if job.kind != kind:
        raise InvalidInput(f"{job_id} is a job of kind {job.kind}; its result has another form")
    if job.cancel_requested:
        raise Conflict(f"{job_id} was cancelled; its result is not taken any more")
    return job, attempt


def _succeed(
    session: Session,
    caller: Caller,
    job: JobRow,
    attempt: AttemptRow,
    result: dict[str, Any],
    reason: str,
    now: datetime,
) -> JobRow:
    job.result = result
    attempt.state = AttemptState.SUCCEEDED
    attempt.reason = reason
    attempt.closed_at = now
    move_job(session, caller, job, JobState.SUCCEEDED, reason, now)
    return job


def _find_version(session: Session, caller: Caller, version_id: str | None) -> ModelVersionRow | None:
    if version_id is None:
        return None
    return session.scalars(scoped(select(ModelVersionRow), caller).where(ModelVersionRow.id == version_id)).one()
