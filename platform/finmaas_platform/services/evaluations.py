"""Evaluations: their scores are kept with the model version that was under test."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from finmaas_platform.db.jobs import JobRow
from finmaas_platform.db.models import ModelVersionRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.audit import record_audit


def store_evaluation(
    session: Session, caller: Caller, now: datetime, job: JobRow, scores: Mapping[str, Any]
) -> ModelVersionRow:
    """Adds the scores to `metrics.evaluations` of the job's subject, once a job; returns the model version."""
    query = scoped(select(ModelVersionRow), caller).where(ModelVersionRow.id == job.subject_version_id)
    version = session.scalars(query.with_for_update(of=ModelVersionRow)).one()
    entry = {
        "job_id": job.id,
        "at": now.isoformat(),
        "dataset": job.spec["dataset"],
        "dataset_version_id": job.dataset_version_id,
        "base_version_id": job.base_version_id,
        "split": job.spec["split"],
        "scores": dict(scores),
    }
    others = [one for one in version.metrics.get("evaluations", []) if one["job_id"] != job.id]
    version.metrics = {**version.metrics, "evaluations": [*others, entry]}
    after = {"job_id": job.id, "scores": dict(scores)}
    record_audit(session, caller, now, "model_version.evaluate", version.id, after=after, tenant_id=version.tenant_id)
    return version
