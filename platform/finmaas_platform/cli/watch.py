"""Waiting for a job in the terminal and showing its end; used by `train`, `evaluate` and `job watch`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from finmaas_platform.cli.curve import draw_curve
from finmaas_platform.cli.group import FAILED, INTERRUPTED, print_panel
from finmaas_platform.cli.scores import read_scores, score_columns
from finmaas_platform.cli.terminal import (
    format_number,
    format_seconds,
    print_fields,
    print_json,
    print_table,
    say,
)

if TYPE_CHECKING:
    from finmaas_platform.sdk.client import Client
    from finmaas_platform.sdk.objects import Job, MetricPoint


def watch_job(client: Client, job_id: str, *, as_json: bool) -> None:
    """Shows a job until it ends, then its result. Exit code 1 unless it succeeded; Ctrl-C leaves it running."""
    from finmaas_platform.cli.progress import JobView

    view = JobView()
    try:
        with view:
            job = client.jobs.wait(job_id, view.update)
    except KeyboardInterrupt:
        say(f"The job goes on. Watch it: finmaas job watch {job_id}  End it: finmaas job cancel {job_id}")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(job.to_json())
    else:
        show_end(job, view.points)
    if job.state != "succeeded":
        raise typer.Exit(FAILED)


def show_end(job: Job, points: Sequence[MetricPoint]) -> None:
    """The loss curve, the scores and what came out of a job that has ended."""
    curve = loss_curve(points)
    if curve:
        typer.echo(curve)
    if job.state == "failed":
        print_panel("the job failed", job.reason, f"finmaas job logs {job.id}")
        return
    result = job.result or {}
    if job.kind == "evaluation" and result:
        scores = read_scores(result)
        print_table(scores, score_columns(scores))
    print_fields(describe_end(job))
    if job.kind == "training" and (ref := result.get("model_version")):
        say(f"Next: finmaas evaluate {_name_of(ref)} {job.spec.get('dataset')}, finmaas deploy {_name_of(ref)}")


def describe_end(job: Job) -> list[tuple[str, object]]:
    """What a person wants to know of a job that has ended."""
    took = None
    if job.started_at and job.finished_at:
        took = format_seconds((job.finished_at - job.started_at).total_seconds())
    ref = (job.result or {}).get("model_version")
    return [
        ("job", job.id),
        ("state", job.state),
        ("model version", _name_of(ref) if ref else None),
        ("took", took),
        *((name.replace("_", " "), format_number(value)) for name, value in _figures(job)),
    ]


def loss_curve(points: Sequence[MetricPoint], width: int = 64, height: int = 10) -> str:
    """The training loss over the steps as characters; empty for fewer than two points."""
    losses = [(float(point.step), point.values["loss"]) for point in points if "loss" in point.values]
    return draw_curve(losses, width=width, height=height, title="training loss")


def _figures(job: Job) -> list[tuple[str, float]]:
    wanted = ("loss", "validation_loss", "tokens_per_s")
    return [(name, job.metrics[name]) for name in wanted if isinstance(job.metrics.get(name), int | float)]


def _name_of(ref: object) -> str:
    """A model version's reference, given as text or as an object that holds it."""
    return str(ref.get("ref", "")) if isinstance(ref, dict) else str(ref)
