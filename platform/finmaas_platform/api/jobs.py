"""Jobs: queueing, looking, waiting, cancelling, their metrics and logs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.etag import set_etag
from finmaas_platform.api.idempotency import OnceDep
from finmaas_platform.api.paging import CursorParam, LimitParam, Page, paginate
from finmaas_platform.db.base import read_unit
from finmaas_platform.db.jobs import AttemptRow, JobMetricRow, JobRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.jobs import FINISHED, AttemptState, JobKind, JobState
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.job_logs import LogPosition, read_job_log
from finmaas_platform.services.jobs import (
    NO_BASE,
    cancel_job,
    create_job,
    get_job,
    read_base_context,
    resolve_spec,
    select_attempts,
    select_jobs,
    select_metrics,
)

router = APIRouter(prefix="/jobs", tags=["jobs"])

LONGEST_WAIT_S = 60.0
POLL_S = 0.5
"""How often a waiting or following request looks; reconcilers look no more often."""


class NewJob(BaseModel):
    """A job to queue; `spec` is a TrainingSpec or an EvaluationSpec."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "project": "default/default",
                "kind": "training",
                "spec": {"base": "tiny@1", "dataset": "intents@1", "output": "intents-tuned"},
            }
        },
    )

    project: str
    kind: JobKind
    spec: dict[str, Any]


class CheckedSpec(BaseModel):
    """A spec that can work, its defaults filled in, its references pinned."""

    kind: JobKind
    spec: dict[str, Any]
    dataset: str
    base: str | None
    model: str | None


class Progress(BaseModel):
    """How far the job has come, as it tells itself."""

    step: int | None = None
    total_steps: int | None = None
    stage: str | None = None


class Job(BaseModel):
    """A training or evaluation job; `reason` says in words why it is where it is."""

    id: str
    project: str
    kind: JobKind
    spec: dict[str, Any]
    state: JobState
    reason: str
    attempt: int = Field(description="The number of the current attempt; 0 before the first.")
    cancel_requested: bool
    progress: Progress
    metrics: dict[str, float] = Field(description="The latest value of each metric.")
    result: dict[str, Any] | None
    created_at: datetime
    created_by: str
    started_at: datetime | None
    finished_at: datetime | None
    version: int


class Attempt(BaseModel):
    """One try at a job. `lost` is the cluster's fault, `failed` the job's own."""

    number: int
    state: AttemptState
    reason: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class Metrics(BaseModel):
    """The values of one step."""

    step: int
    attempt: int
    values: dict[str, float]


def to_view(row: JobRow) -> Job:
    """A job as the API shows it."""
    return Job(
        id=row.id,
        project=row.project.ref,
        kind=JobKind(row.kind),
        spec=row.spec,
        state=JobState(row.state),
        reason=row.reason,
        attempt=row.attempt,
        cancel_requested=row.cancel_requested,
        progress=Progress(**row.progress),
        metrics=row.metrics,
        result=row.result,
        created_at=row.created_at,
        created_by=row.created_by,
        started_at=row.started_at,
        finished_at=row.finished_at,
        version=row.version,
    )


def _to_attempt(row: AttemptRow) -> Attempt:
    return Attempt(
        number=row.number,
        state=AttemptState(row.state),
        reason=row.reason,
        created_at=row.created_at,
        started_at=row.running_at,
        finished_at=row.closed_at,
    )


def _to_metrics(row: JobMetricRow) -> Metrics:
    return Metrics(step=row.step, attempt=row.attempt, values=row.values)


@router.post("", status_code=201, response_model=Job, summary="Queue a job")
def post_job(body: NewJob, session: SessionDep, caller: CallerDep, deps: DepsDep, once: OnceDep) -> Any:
    """Checks the spec, pins its references and queues the job; it is handed to the cluster within about a second."""
    now = deps.clock.now()
    seen = once.is_done(deps.sessions)
    context = NO_BASE if seen else read_base_context(deps, caller, body.project, body.kind, body.spec)

    def make() -> Job:
        return to_view(create_job(session, context, caller, now, body.project, body.kind, body.spec))

    return once.run(session, make)


@router.post("/validate", summary="Check a spec without queueing it")
def validate_job(body: NewJob, session: SessionDep, caller: CallerDep, deps: DepsDep) -> CheckedSpec:
    """Answers 200 when the job could be queued; else the same problem that queueing would give."""
    context = read_base_context(deps, caller, body.project, body.kind, body.spec)
    resolved = resolve_spec(session, context, caller, body.project, body.kind, body.spec)
    return CheckedSpec(
        kind=body.kind,
        spec=resolved.spec.model_dump(mode="json"),
        dataset=resolved.dataset.ref,
        base=resolved.base.ref if resolved.base else None,
        model=resolved.subject.ref if resolved.subject else None,
    )


@router.get("", summary="List jobs, newest first")
def list_jobs(
    session: SessionDep,
    caller: CallerDep,
    project: str | None = None,
    state: JobState | None = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> Page[Job]:
    """The jobs in your sight, of one project or state if given."""
    return paginate(session, select_jobs(session, caller, project, state), JobRow.id, limit, cursor).view(to_view)


@router.get("/{job_id}", summary="One job; optionally wait for it to change")
async def show_job(
    job_id: str,
    caller: CallerDep,
    deps: DepsDep,
    response: Response,
    wait_s: Annotated[float, Query(ge=0, le=LONGEST_WAIT_S, description="Wait up to so long for a change.")] = 0,
    after_version: Annotated[int | None, Query(description="The version you have seen.")] = None,
) -> Job:
    """With `wait_s` and `after_version` it answers once the job has changed, or is finished, or the time is up."""
    end = asyncio.get_running_loop().time() + wait_s
    while True:
        job = await run_in_threadpool(_look, deps, caller, job_id)
        left = end - asyncio.get_running_loop().time()
        if after_version is None or job.version > after_version or job.state in FINISHED or left <= 0:
            set_etag(response, job.version)
            return job
        await asyncio.sleep(min(POLL_S, left))


def _look(deps: Deps, caller: Caller, job_id: str) -> Job:
    with read_unit(deps.sessions) as session:
        return to_view(get_job(session, caller, job_id))


@router.post("/{job_id}/cancel", summary="Cancel a job")
def post_cancel(job_id: str, session: SessionDep, caller: CallerDep, deps: DepsDep) -> Job:
    """Ends a job at once when nothing of it runs, else as soon as the cluster has stopped it. A finished one stays."""
    return to_view(cancel_job(session, caller, deps.clock.now(), job_id))


@router.get("/{job_id}/attempts", summary="The tries at a job, first to last")
def list_attempts(
    job_id: str, session: SessionDep, caller: CallerDep, limit: LimitParam = 50, cursor: CursorParam = None
) -> Page[Attempt]:
    """Each attempt with its end and the reason for it."""
    query = select_attempts(session, caller, job_id)
    return paginate(session, query, AttemptRow.number, limit, cursor, newest_first=False).view(_to_attempt)


@router.get("/{job_id}/metrics", summary="The metric points of a job, by step")
def list_metrics(
    job_id: str,
    session: SessionDep,
    caller: CallerDep,
    after_step: int | None = None,
    limit: LimitParam = 500,
    cursor: CursorParam = None,
) -> Page[Metrics]:
    """One curve over all attempts: a step that was repeated shows its latest values."""
    query = select_metrics(session, caller, job_id, after_step)
    return paginate(session, query, JobMetricRow.step, limit, cursor, newest_first=False).view(_to_metrics)


@router.get(
    "/{job_id}/logs",
    summary="The log of a job",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/plain": {}}}},
)
async def stream_logs(
    job_id: str,
    caller: CallerDep,
    deps: DepsDep,
    follow: Annotated[bool, Query(description="Go on until the job has ended.")] = False,
    offset: Annotated[int, Query(ge=0, description="Leave out so many bytes at the start.")] = 0,
) -> StreamingResponse:
    """The logs of all attempts one after the other, as plain text. Finished attempts keep the last MiB of theirs."""
    await run_in_threadpool(_look, deps, caller, job_id)
    return StreamingResponse(_follow_log(deps, caller, job_id, follow, offset), media_type="text/plain; charset=utf-8")


async def _follow_log(deps: Deps, caller: Caller, job_id: str, follow: bool, offset: int) -> AsyncIterator[bytes]:
    position = LogPosition()
    while True:
        part = await run_in_threadpool(read_job_log, deps, caller, job_id, position)
        body = part.text.encode()
        skipped = min(offset, len(body))
        offset -= skipped
        if body[skipped:]:
            yield body[skipped:]
        position = part.position
        if part.ended or not (follow or part.more):
            return
        if not part.more:
            await asyncio.sleep(POLL_S)
