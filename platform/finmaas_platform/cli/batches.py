"""`finmaas batch`: the batches that applications run."""

from __future__ import annotations

from typing import Annotated

import typer

from finmaas_platform.cli.options import SERVING, AnyProjectOption, JsonOption, connect
from finmaas_platform.cli.terminal import Column, print_json, say, show_items

app = typer.Typer(no_args_is_help=True, help="Shows and ends batches of requests; OpenAI's client makes them.")
COLUMNS = (
    Column("Id", lambda b: b.id),
    Column("Project", lambda b: b.project),
    Column("Endpoint", lambda b: b.endpoint),
    Column("State", lambda b: b.state),
    Column("Answered", lambda b: f"{b.done} of {b.total}"),
    Column("Failed", lambda b: str(b.failed) if b.failed else ""),
    Column("Created", lambda b: b.created_at),
)
BatchArgument = Annotated[str, typer.Argument(help="Id of the batch (batch_…).")]


def register(root: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    root.add_typer(app, name="batch", rich_help_panel=SERVING)


@app.command("list")
def list_batches(project: AnyProjectOption = None, as_json: JsonOption = False) -> None:
    """List batches and how far they are.

    Example: finmaas batch list --project retail/service
    """
    with connect() as client:
        show_items(client.batches.list(project), COLUMNS, as_json=as_json, empty="No batch yet.")


@app.command("show")
def show_batch(batch_id: BatchArgument, as_json: JsonOption = False) -> None:
    """Show a batch, and what is wrong with its input.

    Example: finmaas batch show batch_06f2k8qv3x
    """
    with connect() as client:
        batch = client.batches.get(batch_id)
    if as_json:
        print_json(batch.to_json())
        return
    say(f"{batch.id} of {batch.project}: {batch.state}, {batch.done} of {batch.total} answered, {batch.failed} failed.")
    for fault in batch.faults:
        say(f"  {fault['message']}")


@app.command("cancel")
def cancel_batch(batch_id: BatchArgument, as_json: JsonOption = False) -> None:
    """End a batch; what was answered stays in its output file.

    Example: finmaas batch cancel batch_06f2k8qv3x
    """
    with connect() as client:
        batch = client.batches.cancel(batch_id)
    if as_json:
        print_json(batch.to_json())
        return
    say(f"{batch.id} is {batch.state}.")
