"""Jobs: checking a spec, queueing, looking, cancelling. What then becomes of them is the reconciler's part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from finmaas_core.errors import Conflict, InvalidSpec, NotFound
from finmaas_core.ids import new_id
from finmaas_platform.db.base import read_unit
from finmaas_platform.db.datasets import DatasetVersionRow
from finmaas_platform.db.jobs import AttemptRow, JobMetricRow, JobRow
from finmaas_platform.db.leases import break_lease, wake_after_commit
from finmaas_platform.db.models import ModelVersionRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.deps import Deps
from finmaas_platform.domain.jobs import FINISHED, JobKind, JobState
from finmaas_platform.domain.model_versions import VersionState
from finmaas_platform.domain.principals import Caller, Role
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.datasets import check_readable, resolve_dataset_version
from finmaas_platform.services.job_checks import check_evaluation, check_training, find_context_length
from finmaas_platform.services.job_protocol import move_job
from finmaas_platform.services.models import resolve_model_version
from finmaas_platform.services.projects import get_project
from finmaas_training.spec import EvaluationSpec, TrainingSpec

MAKERS = (Role.TENANT_ADMIN, Role.ML_ENGINEER)
Spec = TrainingSpec | EvaluationSpec


@dataclass(frozen=True)
class ResolvedSpec:
    """A spec that can work, with each of its references pinned to a version."""

    project: ProjectRow
    kind: JobKind
    spec: Spec
    dataset: DatasetVersionRow
    base: ModelVersionRow | None
    subject: ModelVersionRow | None


@dataclass(frozen=True)
class BaseContext:
    """The longest text that the base of a training reads, in tokens; read before the transaction that asks for it."""

    base_id: str | None
    tokens: int | None


NO_BASE = BaseContext(None, None)


def read_base_context(
    deps: Deps, caller: Caller, project_ref: str, kind: JobKind, spec: Mapping[str, Any]
) -> BaseContext:
    """Reads the base's configuration in the store, holding no transaction. Raises as `resolve_spec`."""
    with read_unit(deps.sessions) as session:
        base = _resolve(session, caller, project_ref, kind, spec).base
    if base is None or kind is not JobKind.TRAINING:
        return NO_BASE
    return BaseContext(base.id, find_context_length(deps.store, base))


def resolve_spec(
    session: Session, context: BaseContext, caller: Caller, project_ref: str, kind: JobKind, spec: Mapping[str, Any]
) -> ResolvedSpec:
    """Checks a spec as far as that is possible before it runs; InvalidSpec or NotFound say what is wrong with it."""
    resolved = _resolve(session, caller, project_ref, kind, spec)
    if isinstance(resolved.spec, TrainingSpec):
        assert resolved.base is not None, "a training spec always has a base"
        if resolved.base.id != context.base_id:
            raise Conflict(f"{resolved.spec.base} was moved at the same time; repeat your request")
        check_training(resolved.spec, resolved.dataset, resolved.base, context.tokens)
    return resolved


def _resolve(
    session: Session, caller: Caller, project_ref: str, kind: JobKind, spec: Mapping[str, Any]
) -> ResolvedSpec:
    caller.require(*MAKERS)
    project = get_project(session, caller, project_ref)
    parsed = parse_spec(kind, spec)
    dataset = resolve_dataset_version(session, caller, project, parsed.dataset)
    _check_tenant(project, dataset.tenant_id, "dataset", parsed.dataset)
    check_readable(dataset)
    base = None if parsed.base is None else _resolve_model(session, caller, project, parsed.base)
    if isinstance(parsed, TrainingSpec):
        assert base is not None, "a training spec always has a base"
        if base.state == VersionState.RETIRED:
            raise InvalidSpec(f"the base {base.ref} is retired; train from another version")
        return ResolvedSpec(project, kind, parsed, dataset, base, None)
    subject = _resolve_model(session, caller, project, parsed.model)
    check_evaluation(parsed, dataset, subject, base)
    return ResolvedSpec(project, kind, parsed, dataset, base, subject)


def parse_spec(kind: JobKind, spec: Mapping[str, Any]) -> Spec:
    """The typed spec of a kind of job; InvalidSpec names each field that is wrong."""
    try:
        return (TrainingSpec if kind is JobKind.TRAINING else EvaluationSpec).model_validate(spec)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'spec'}: {one['msg']}" for one in error.errors())
        raise InvalidSpec(f"the {kind} spec cannot be used: {faults}") from error


def create_job(
    session: Session,
    context: BaseContext,
    caller: Caller,
    now: datetime,
    project_ref: str,
    kind: JobKind,
    spec: Mapping[str, Any],
) -> JobRow:
    """Queues a job. Its references are pinned now: a version that is made later does not change it."""
    resolved = resolve_spec(session, context, caller, project_ref, kind, spec)
    project = resolved.project
    row = JobRow(
        id=new_id("job"),
        tenant_id=project.tenant_id,
        project=project,
        project_id=project.id,
        kind=kind.value,
        spec=resolved.spec.model_dump(mode="json"),
        dataset_version_id=resolved.dataset.id,
        base_version_id=resolved.base and resolved.base.id,
        subject_version_id=resolved.subject and resolved.subject.id,
        state=JobState.QUEUED.value,
        reason="waits to be admitted",
        attempt=0,
        failures=0,
        losses=0,
        cancel_requested=False,
        progress={},
        metrics={},
        created_at=now,
        created_by=caller.name,
        author_id=caller.id,
        author_token_holders=sorted(caller.token_holders),
        due_at=now,
        version=1,
    )
    session.add(row)
    wake_after_commit(session, "jobs")
    after = {"project": project.ref, "kind": row.kind, "spec": row.spec}
    record_audit(session, caller, now, "job.create", row.id, after=after, tenant_id=row.tenant_id)
    return row


def select_jobs(
    session: Session, caller: Caller, project: str | None = None, state: JobState | None = None
) -> Select[JobRow]:
    """The jobs in the caller's sight, of one project or state if named."""
    query = scoped(select(JobRow), caller)
    if project is not None:
        query = query.where(JobRow.project_id == get_project(session, caller, project).id)
    return query if state is None else query.where(JobRow.state == state)


def get_job(session: Session, caller: Caller, job_id: str) -> JobRow:
    """One job; NotFound when it is not in the caller's sight."""
    row = session.scalar(scoped(select(JobRow), caller).where(JobRow.id == job_id))
    if row is None:
        raise NotFound(f"there is no job {job_id}; `finmaas job list` shows yours")
    return row


def cancel_job(session: Session, caller: Caller, now: datetime, job_id: str) -> JobRow:
    """Ends a job: at once when nothing of it runs, else as soon as the cluster has stopped it. A finished one stays."""
    caller.require(*MAKERS)
    row = get_job(session, caller, job_id)
    session.refresh(row, with_for_update={"of": JobRow})
    if row.state in FINISHED or row.cancel_requested:
        return row
    row.cancel_requested = True
    record_audit(session, caller, now, "job.cancel", row.id, {"state": row.state}, tenant_id=row.tenant_id)
    if row.state in (JobState.QUEUED, JobState.ADMITTED):
        move_job(session, caller, row, JobState.CANCELLED, f"cancelled by {caller.name} before it ran", now)
        return row
    row.reason = "is being cancelled"
    row.version += 1
    break_lease(row, now)
    wake_after_commit(session, "jobs")
    return row


def select_attempts(session: Session, caller: Caller, job_id: str) -> Select[AttemptRow]:
    """The attempts of a job in the caller's sight."""
    get_job(session, caller, job_id)
    return scoped(select(AttemptRow), caller).where(AttemptRow.job_id == job_id)


def select_metrics(session: Session, caller: Caller, job_id: str, after_step: int | None) -> Select[JobMetricRow]:
    """The metric points of a job, those after a step if one is given."""
    get_job(session, caller, job_id)
    query = scoped(select(JobMetricRow), caller).where(JobMetricRow.job_id == job_id)
    return query if after_step is None else query.where(JobMetricRow.step > after_step)


def _resolve_model(session: Session, caller: Caller, project: ProjectRow, ref: str) -> ModelVersionRow:
    row = resolve_model_version(session, caller, project, ref)
    _check_tenant(project, row.tenant_id, "model", ref)
    return row


def _check_tenant(project: ProjectRow, tenant_id: str, what: str, ref: str) -> None:
    """A platform-admin sees every tenant, but a job stays inside its own."""
    if tenant_id != project.tenant_id:
        raise NotFound(f"there is no {what} {ref} in the tenant of {project.ref}")
