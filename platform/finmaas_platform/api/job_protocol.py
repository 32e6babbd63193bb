"""What a job on the cluster says and asks, with the token of its attempt. Not for people: see `api/jobs.py`.

Each call may be repeated. One from an attempt that was replaced answers 409 `stale_attempt` and writes nothing.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from finmaas_platform.api.dependencies import DepsDep, JobCallerDep, NodeCallerDep, SessionDep
from finmaas_platform.api.jobs import Job, Progress, to_view
from finmaas_platform.db.datasets import DatasetVersionRow
from finmaas_platform.db.models import ModelVersionRow
from finmaas_platform.domain.jobs import JobKind
from finmaas_platform.services.blobs import to_entries
from finmaas_platform.services.job_protocol import (
    MetricPoint,
    get_latest_checkpoint,
    issue_token,
    record_checkpoint,
    record_failure,
    record_metrics,
)
from finmaas_platform.services.job_results import check_result, complete_evaluation, complete_training, get_inputs
from finmaas_registry.manifest import FileEntry

router = APIRouter(prefix="/jobs/{job_id}/attempts/{number}", tags=["job protocol"])

MAX_POINTS = 1000


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class JobToken(BaseModel):
    """The token of one attempt, given once."""

    token: str


class File(_Body):
    """A file of a version or checkpoint, by digest."""

    path: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]


class InputDataset(BaseModel):
    """The dataset version that a job works on."""

    id: str
    ref: str
    dataset: str
    version: int
    shape: str
    rows: int
    splits: dict[str, Any]
    digest: str
    files: list[File]


class InputModel(BaseModel):
    """A model version that a job works on."""

    id: str
    ref: str
    model: str
    version: int
    kind: str
    digest: str
    size_bytes: int
    files: list[File]


class Inputs(BaseModel):
    """All that an attempt needs to begin; `subject` is the model under test of an evaluation."""

    kind: JobKind
    spec: dict[str, Any]
    dataset: InputDataset
    base: InputModel | None
    subject: InputModel | None


class Point(_Body):
    """Named values at one step; those that are not finite are left out."""

    step: Annotated[int, Field(ge=0)]
    values: dict[str, float | None]


class MetricsReport(_Body):
    """New points, and how far the job is."""

    points: Annotated[list[Point], Field(max_length=MAX_POINTS)] = []
    progress: Progress | None = None


class MetricsAnswer(BaseModel):
    """`cancel`: the user asked for the end; stop as soon as you can."""

    cancel: bool


class Checkpoint(_Body):
    """A state to go on from; its files were put as blobs before."""

    step: Annotated[int, Field(ge=0)]
    files: list[File]
    state: dict[str, Any] = {}


class Result(_Body):
    """Training: `files`, `metrics`, and `materials`, what made them. Evaluation: `scores` and `details`."""

    files: list[File] | None = None
    metrics: dict[str, Any] = {}
    materials: dict[str, Any] = {}
    scores: dict[str, Any] | None = None
    details: dict[str, Any] = {}


class Failure(_Body):
    """Why an attempt is about to end; `final` when another try would fare no better."""

    message: Annotated[str, Field(min_length=1)]
    final: bool = False


@router.post("/token", status_code=201, summary="Trade the node's token for the attempt's own")
def post_token(job_id: str, number: int, session: SessionDep, caller: NodeCallerDep, deps: DepsDep) -> JobToken:
    """Once only, and only while the attempt is the current one and starting."""
    return JobToken(token=issue_token(session, caller, deps.clock.now(), deps.secrets.pepper, job_id, number))


@router.get("/inputs", summary="What the attempt works on")
def show_inputs(job_id: str, number: int, session: SessionDep, caller: JobCallerDep) -> Inputs:
    """The spec and the versions that were pinned when the job was made, with the digests of their files."""
    inputs = get_inputs(session, caller, job_id, number)
    return Inputs(
        kind=JobKind(inputs.job.kind),
        spec=inputs.job.spec,
        dataset=_to_dataset(inputs.dataset),
        base=_to_model(inputs.base) if inputs.base else None,
        subject=_to_model(inputs.subject) if inputs.subject else None,
    )


@router.post("/metrics", summary="Report metrics and progress")
def post_metrics(
    job_id: str, number: int, body: MetricsReport, session: SessionDep, caller: JobCallerDep, deps: DepsDep
) -> MetricsAnswer:
    """Idempotent by step."""
    points = [
        MetricPoint(point.step, {name: value for name, value in point.values.items() if value is not None})
        for point in body.points
    ]
    progress = None if body.progress is None else body.progress.model_dump()
    cancel = record_metrics(session, caller, deps.clock.now(), job_id, number, points, progress)
    return MetricsAnswer(cancel=cancel)


@router.post("/checkpoints", status_code=201, summary="Make a checkpoint known")
def post_checkpoint(
    job_id: str, number: int, body: Checkpoint, session: SessionDep, caller: JobCallerDep, deps: DepsDep
) -> Checkpoint:
    """Any later attempt of the job goes on from the checkpoint of the highest step."""
    record_checkpoint(session, caller, deps.clock.now(), job_id, number, body.step, _to_entries(body.files), body.state)
    return body


@router.get("/checkpoints/latest", summary="The checkpoint to go on from")
def show_latest_checkpoint(job_id: str, number: int, session: SessionDep, caller: JobCallerDep) -> Checkpoint:
    """Of the highest step that any attempt of this job reached; 404 before the first."""
    row = get_latest_checkpoint(session, caller, job_id, number)
    return Checkpoint(step=row.step, files=[File(**file) for file in row.files], state=row.state)


@router.post("/result", summary="Hand in the result")
def post_result(
    job_id: str, number: int, body: Result, session: SessionDep, caller: JobCallerDep, deps: DepsDep
) -> Job:
    """Registers what the job made and ends the job, in one transaction; handed in again it changes nothing."""
    now = deps.clock.now()
    if body.scores is not None:
        row = complete_evaluation(session, caller, now, job_id, number, body.scores, body.details)
    else:
        checked = check_result(deps, caller, job_id, number, _to_entries(body.files or []))
        row = complete_training(session, caller, now, job_id, number, checked, body.metrics, body.materials)
    return to_view(row)


@router.post("/failure", status_code=204, summary="Say why the attempt is about to end")
def post_failure(
    job_id: str, number: int, body: Failure, session: SessionDep, caller: JobCallerDep, deps: DepsDep
) -> None:
    """The user reads this instead of the cluster's own words; a final one is not tried again."""
    record_failure(session, caller, deps.clock.now(), job_id, number, body.message, body.final)


def _to_entries(files: list[File]) -> list[FileEntry]:
    return to_entries([file.model_dump() for file in files])


def _to_dataset(row: DatasetVersionRow) -> InputDataset:
    return InputDataset(
        id=row.id,
        ref=row.ref,
        dataset=row.dataset.name,
        version=row.number,
        shape=row.shape,
        rows=row.rows,
        splits=row.splits,
        digest=row.digest,
        files=[File(**file) for file in row.files],
    )


def _to_model(row: ModelVersionRow) -> InputModel:
    return InputModel(
        id=row.id,
        ref=row.ref,
        model=row.model.name,
        version=row.number,
        kind=row.kind,
        digest=row.digest,
        size_bytes=row.size_bytes,
        files=[File(**file) for file in row.files],
    )
