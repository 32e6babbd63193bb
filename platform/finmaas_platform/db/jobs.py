"""Rows of jobs, their attempts, checkpoints and metrics, and their mapping to `domain/jobs.py`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from finmaas_platform.db.base import Base
from finmaas_platform.db.leases import Leased
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.domain.jobs import OPEN, Attempt, AttemptState, Job, JobState


class JobRow(Leased, Base):
    """A training or evaluation job. References of the spec are pinned to versions when it is made.

    `version` rises with each change that a user can see; `due_at` is None once nothing is left to do.
    """

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_state_created_at", "state", "created_at"),)

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    kind: Mapped[str]
    spec: Mapped[dict[str, Any]]
    dataset_version_id: Mapped[str] = mapped_column(index=True)
    base_version_id: Mapped[str | None] = mapped_column(index=True)
    subject_version_id: Mapped[str | None] = mapped_column(index=True)

    state: Mapped[str]
    reason: Mapped[str] = mapped_column(Text)
    attempt: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    losses: Mapped[int] = mapped_column(default=0)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    not_before: Mapped[datetime | None]

    progress: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any] | None]

    created_at: Mapped[datetime]
    created_by: Mapped[str]
    author_id: Mapped[str | None]
    author_token_holders: Mapped[list[Any]] = mapped_column(default=list)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(default=1)

    project: Mapped[ProjectRow] = relationship(lazy="joined", innerjoin=True)


class AttemptRow(Base):
    """One try at a job. `log` is the end of its log, kept when it is over."""

    __tablename__ = "job_attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    state: Mapped[str]
    reason: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime]
    submitted_at: Mapped[datetime | None]
    running_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]
    error: Mapped[str] = mapped_column(Text, default="")
    error_is_final: Mapped[bool] = mapped_column(default=False)
    log: Mapped[str | None] = mapped_column(Text, deferred=True)
    log_kept: Mapped[bool] = mapped_column(default=False)


class CheckpointRow(Base):
    """A state from which any later attempt of the job can go on; its files are blobs of the tenant."""

    __tablename__ = "job_checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "attempt", "step"), Index("ix_job_checkpoints_job", "job_id", "step"))

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    attempt: Mapped[int]
    tenant_id: Mapped[str]
    step: Mapped[int]
    files: Mapped[list[Any]]
    state: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class JobMetricRow(Base):
    """The values of one step; an attempt that repeats a step overwrites it."""

    __tablename__ = "job_metrics"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    attempt: Mapped[int]
    values: Mapped[dict[str, Any]]
    at: Mapped[datetime]


def to_job(row: JobRow, attempts: list[AttemptRow]) -> Job:
    """The job as its plan sees it; of `attempts`, those that are over and whose log is kept are left out."""
    return Job(
        id=row.id,
        state=JobState(row.state),
        reason=row.reason,
        attempt=row.attempt,
        failures=row.failures,
        losses=row.losses,
        cancel_requested=row.cancel_requested,
        not_before=row.not_before,
        attempts=tuple(to_attempt(one) for one in attempts if one.state in OPEN or not one.log_kept),
    )


def to_attempt(row: AttemptRow) -> Attempt:
    """An attempt; one that has fetched its token was submitted, even if we were killed before we could write so."""
    return Attempt(
        number=row.number,
        state=AttemptState(row.state),
        submitted=row.submitted_at is not None or row.running_at is not None,
        closed_at=row.closed_at,
        log_kept=row.log_kept,
        error=row.error,
        error_is_final=row.error_is_final,
    )
