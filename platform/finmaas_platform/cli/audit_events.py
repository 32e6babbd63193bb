"""`finmaas audit`: who did what to which."""

from __future__ import annotations

from typing import Annotated

import typer

from finmaas_platform.cli.options import ADMINISTRATION, JsonOption, connect
from finmaas_platform.cli.terminal import Column, show_items

app = typer.Typer(no_args_is_help=True, help="The audit trail: who did what to which.")
COLUMNS = (
    Column("At", lambda e: e.at),
    Column("Who", lambda e: e.caller_name),
    Column("Action", lambda e: e.action),
    Column("Target", lambda e: e.target),
    Column("Request", lambda e: e.request_id),
)


def register(root: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    root.add_typer(app, name="audit", rich_help_panel=ADMINISTRATION)


@app.command("list")
def list_events(
    target: Annotated[
        str | None, typer.Option("--target", help="Only about this object, by id.", show_default=False)
    ] = None,
    action: Annotated[
        str | None, typer.Option("--action", help="Only this action, e.g. job.create.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List audit events.

    Example: finmaas audit list --action api_key.create
    """
    with connect() as client:
        show_items(
            client.audit.list(target, action, limit), COLUMNS, as_json=as_json, empty="No such event is in your sight."
        )
