"""`finmaas job`: training and evaluation jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from finmaas_platform.cli.options import WORK, AnyProjectOption, JsonOption, complete_job, connect
from finmaas_platform.cli.terminal import Column, format_number, print_json, print_table, say, show_items, show_object

app = typer.Typer(no_args_is_help=True, help="Training and evaluation jobs.")
JobArgument = Annotated[str, typer.Argument(help="Id of the job (job_…).", metavar="JOB", autocompletion=complete_job)]
COLUMNS = (
    Column("Id", lambda j: j.id),
    Column("Kind", lambda j: j.kind),
    Column("State", lambda j: j.state),
    Column(
        "Step", lambda j: f"{j.progress.step}/{j.progress.total_steps}" if j.progress.total_steps else None, right=True
    ),
    Column("What", lambda j: j.spec.get("output") or j.spec.get("model")),
    Column("Created", lambda j: j.created_at),
    Column("Reason", lambda j: j.reason, fold=True),
)
ATTEMPTS = (
    Column("Attempt", lambda a: a.number, right=True),
    Column("State", lambda a: a.state),
    Column("Started", lambda a: a.started_at),
    Column("Ended", lambda a: a.finished_at),
    Column("Reason", lambda a: a.reason, fold=True),
)


def register(root: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    root.add_typer(app, name="job", rich_help_panel=WORK)


@app.command("list")
def list_jobs(
    project: AnyProjectOption = None,
    state: Annotated[
        str | None, typer.Option("--state", help="Only in this state, e.g. running.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List jobs.

    Example: finmaas job list --state running
    """
    with connect() as client:
        show_items(
            client.jobs.list(project, state, limit),
            COLUMNS,
            as_json=as_json,
            empty="No such job: finmaas train <base> <dataset> --output <model>",
        )


@app.command("show")
def show_job(job_id: JobArgument, as_json: JsonOption = False) -> None:
    """Show a job: state and reason, progress, figures, spec.

    Example: finmaas job show job_06f2k8qv3x
    """
    with connect() as client:
        job = client.jobs.get(job_id)
    progress = job.progress
    fields = (
        ("job", job.id),
        ("kind", job.kind),
        ("project", job.project),
        ("state", job.state),
        ("reason", job.reason),
        ("attempt", job.attempt),
        (
            "progress",
            f"{progress.step}/{progress.total_steps} {progress.stage or ''}" if progress.total_steps else None,
        ),
        *((name, format_number(value)) for name, value in job.metrics.items() if isinstance(value, int | float)),
        ("created", job.created_at),
        ("started", job.started_at),
        ("finished", job.finished_at),
        *((f"spec.{name}", str(value)) for name, value in job.spec.items() if value is not None),
    )
    show_object(job, fields, as_json=as_json)


@app.command("watch")
def watch(job_id: JobArgument, as_json: JsonOption = False) -> None:
    """Watch a job until it ends; exits with 1 unless it succeeded. Ctrl-C leaves it running.

    Example: finmaas job watch job_06f2k8qv3x
    """
    from finmaas_platform.cli.watch import watch_job

    with connect() as client:
        watch_job(client, job_id, as_json=as_json)


@app.command("logs")
def show_logs(
    job_id: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a job printed.

    Example: finmaas job logs job_06f2k8qv3x -f
    """
    with connect() as client:
        if as_json:
            print_json({"lines": list(client.jobs.logs(job_id, follow=follow))})
            return
        for line in client.jobs.logs(job_id, follow=follow):
            typer.echo(line)


@app.command("metrics")
def show_metrics(job_id: JobArgument, as_json: JsonOption = False) -> None:
    """Show the loss curve and the newest figures of a job.

    Example: finmaas job metrics job_06f2k8qv3x
    """
    from finmaas_platform.cli.watch import loss_curve

    with connect() as client:
        points = list(client.jobs.metrics(job_id))
    if as_json:
        print_json([point.to_json() for point in points])
        return
    if not points:
        say("No figures yet.")
        return
    if curve := loss_curve(points):
        typer.echo(curve)
    names = list(dict.fromkeys(name for point in points[-8:] for name in point.values))
    columns = [Column("Step", lambda p: p.step, right=True)]
    columns += [Column(name, lambda p, name=name: p.values.get(name), right=True) for name in names]  # type: ignore[misc]
    print_table(points[-8:], columns)


@app.command("attempts")
def list_attempts(job_id: JobArgument, as_json: JsonOption = False) -> None:
    """List the tries at a job.

    Example: finmaas job attempts job_06f2k8qv3x
    """
    with connect() as client:
        show_items(client.jobs.attempts(job_id), ATTEMPTS, as_json=as_json, empty="The job has not been tried yet.")


@app.command("cancel")
def cancel_job(job_id: JobArgument, as_json: JsonOption = False) -> None:
    """End a job. What it has registered stays.

    Example: finmaas job cancel job_06f2k8qv3x
    """
    with connect() as client:
        job = client.jobs.cancel(job_id)
    if as_json:
        print_json(job.to_json())
        return
    say(f"{job.id} is {job.state}{f': {job.reason}' if job.reason else ''}")
