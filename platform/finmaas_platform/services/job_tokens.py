"""Tokens of job attempts: scoped to one attempt's inputs and its tenant's blobs, issued once."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from finmaas_core.errors import Conflict
from finmaas_platform.db.job_tokens import JobTokenRow
from finmaas_platform.services.tokens import TokenPrefix, hash_token, new_token

LIFETIME = timedelta(days=7)


def issue_job_token(session: Session, pepper: str, job_id: str, attempt: int, tenant_id: str, now: datetime) -> str:
    """A fresh token for an attempt; it is shown here and never again. Conflict when the attempt already has one.

    The caller has checked that the attempt is the current one; a stale attempt's token is refused where it writes.
    """
    if session.scalar(select(JobTokenRow).where(JobTokenRow.job_id == job_id, JobTokenRow.attempt == attempt)):
        raise _already_issued(job_id, attempt)
    token = new_token(TokenPrefix.JOB)
    row = JobTokenRow(
        hash=hash_token(pepper, token),
        job_id=job_id,
        attempt=attempt,
        tenant_id=tenant_id,
        created_at=now,
        expires_at=now + LIFETIME,
    )
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError as error:
        raise _already_issued(job_id, attempt) from error
    return token


def _already_issued(job_id: str, attempt: int) -> Conflict:
    return Conflict(
        f"attempt {attempt} of {job_id} already has its token, which is given once; a new attempt gets a new one"
    )
