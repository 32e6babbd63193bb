"""Progress of what takes time: bytes, jobs, endpoints. Live on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from finmaas_platform.cli.terminal import format_bytes, format_number, format_seconds, make_console

if TYPE_CHECKING:
    from rich.console import Console

    from finmaas_platform.sdk.objects import Endpoint, Job, MetricPoint

PLAIN_EVERY_S = 10.0
"""Seconds between two plain lines about the same thing."""


class StepClock:
    """Estimates the seconds left from the steps seen so far; a job that is joined half-way counts from there."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._first: tuple[float, int] | None = None

    def estimate_left_s(self, step: int, total: int) -> float | None:
        """Seconds left, or None while too little has been seen."""
        if self._first is None or step < self._first[1]:
            self._first = (self._now(), step)
        started, first_step = self._first
        if step <= first_step:
            return None
        return (self._now() - started) / (step - first_step) * (total - step)


def describe_metrics(values: dict[str, Any]) -> str:
    """The figures that a person watches, e.g. `loss 0.412 · 3,120 tokens/s`."""
    parts = []
    if isinstance(loss := values.get("loss"), int | float):
        parts.append(f"loss {loss:.3f}")
    if isinstance(speed := values.get("tokens_per_s"), int | float):
        parts.append(f"{format_number(speed)} tokens/s")
    return " · ".join(parts)


def describe_left(left_s: float | None) -> str:
    """The time left in words, empty while unknown."""
    return "" if left_s is None else f"{format_seconds(left_s)} left"


def make_progress(console: Console) -> Progress:
    """The one look of live progress: spinner, words, bar, count, detail, time left."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28, complete_style="cyan", finished_style="green", pulse_style="cyan"),
        TextColumn("{task.fields[count]}", markup=False),
        TextColumn("{task.fields[detail]}", style="cyan", markup=False),
        TextColumn("{task.fields[left]}", style="dim", markup=False),
        console=console,
        transient=True,
    )


@contextmanager
def show_bytes(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for bytes; the function it gives takes the bytes done and the bytes in all."""
    console = make_console(stderr=True)
    if not console.is_terminal:
        console.print(f"{what} …", markup=False)
        yield lambda _done, _total: None
        return
    clock = StepClock()
    with make_progress(console) as progress:
        task = progress.add_task(what, total=None, count="", detail="", left="")

        def update(done: int, total: int) -> None:
            count = f"{format_bytes(done)} of {format_bytes(total)}"
            left = "the server reads it" if done == total else describe_left(clock.estimate_left_s(done, total))
            progress.update(task, total=total or None, completed=done, count=count, left=left)

        yield update


class JobView:
    """Shows a job as `jobs.wait` tells of it: state and reason while it waits, then steps, loss and time left."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or make_console(stderr=True)
        self._progress = make_progress(self._console) if self._console.is_terminal else None
        self._task: TaskID | None = None
        self._clock = StepClock()
        self._last_line = ""
        self._last_line_at = 0.0
        self.points: list[MetricPoint] = []

    def __enter__(self) -> JobView:
        if self._progress is not None:
            self._progress.start()
            self._task = self._progress.add_task("job", total=None, count="", detail="", left="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, job: Job, points: Sequence[MetricPoint]) -> None:
        """Takes in the job and its new metric points."""
        self.points.extend(points)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, **describe_job(job, self._clock))
        else:
            self._print_plain(job)

    def _print_plain(self, job: Job) -> None:
        fields = describe_job(job, self._clock)
        words = [str(fields[name]) for name in ("description", "count", "detail", "left") if fields[name]]
        stage = str(fields["description"])
        due = time.monotonic() - self._last_line_at >= PLAIN_EVERY_S
        if stage != self._last_line or due or job.is_finished:
            self._console.print(" · ".join(words), markup=False, soft_wrap=True)
            self._last_line, self._last_line_at = stage, time.monotonic()


def describe_job(job: Job, clock: StepClock) -> dict[str, Any]:
    """What to show of a job: the fields of `make_progress`, with the bar's total and completed."""
    step, total = job.progress.step, job.progress.total_steps
    description = _describe_state(job)
    if job.attempt > 1:
        description += f" (attempt {job.attempt})"
    if job.state != "running" or step is None or not total:
        return {"description": description, "total": None, "completed": 0, "count": "", "detail": "", "left": ""}
    return {
        "description": description,
        "total": total,
        "completed": step,
        "count": f"{step:,}/{total:,}",
        "detail": describe_metrics(job.metrics),
        "left": describe_left(clock.estimate_left_s(step, total)),
    }


def _describe_state(job: Job) -> str:
    """Kind and state with the reason; of a running job the stage that it names itself, unless that says no more."""
    stage = job.progress.stage
    if job.state == "running" and stage:
        return job.kind if stage == job.kind else f"{job.kind}: {stage}"
    return f"{job.kind} {job.state}{f': {job.reason}' if job.reason else ''}"


@contextmanager
def show_endpoint() -> Iterator[Callable[[Endpoint], None]]:
    """A spinner with an endpoint's state and reason."""
    console = make_console(stderr=True)
    started = time.monotonic()
    if console.is_terminal:
        with console.status("asking for the endpoint …") as spinner:
            yield lambda endpoint: spinner.update(
                f"{describe_endpoint(endpoint)} [dim]{format_seconds(time.monotonic() - started)}[/]"
            )
        return
    seen: set[str] = set()

    def print_once(endpoint: Endpoint) -> None:
        line = describe_endpoint(endpoint)
        if line not in seen:
            seen.add(line)
            console.print(line, markup=False, soft_wrap=True)

    yield print_once


def describe_endpoint(endpoint: Endpoint) -> str:
    """An endpoint's state and why, in one line."""
    reason = f": {endpoint.reason}" if endpoint.reason else ""
    return f"{endpoint.name} {endpoint.state}{reason}"
