"""`finmaas archive`: requests and answers that projects keep for auditors."""

from __future__ import annotations

from typing import Annotated

import typer

from finmaas_platform.cli.options import ADMINISTRATION, AnyProjectOption, JsonOption, connect
from finmaas_platform.cli.terminal import Column, print_json, show_items

app = typer.Typer(no_args_is_help=True, help="Kept requests and answers, for auditors.")
COLUMNS = (
    Column("Record", lambda r: r.id),
    Column("At", lambda r: r.at),
    Column("Forgotten", lambda r: r.expires_at),
    Column("Key", lambda r: r.key_id),
)


def register(root: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    root.add_typer(app, name="archive", rich_help_panel=ADMINISTRATION)


@app.command("list")
def list_kept(
    project: AnyProjectOption = None,
    request: Annotated[
        str | None, typer.Option("--request", help="Only of this request id.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List what is kept; the texts stay sealed.

    Example: finmaas archive list --project retail/service
    """
    with connect() as client:
        empty = "Nothing is kept: a policy with `keep` makes a project keep its requests"
        show_items(client.archive.list(project, request, limit), COLUMNS, as_json=as_json, empty=empty)


@app.command("read")
def read_kept(
    record: Annotated[str, typer.Argument(help="The record, as `archive list` names it.")],
    reason: Annotated[str, typer.Option("--reason", help="Why it is opened; the audit keeps it.")],
    as_json: JsonOption = False,
) -> None:
    """Open one record. Who did, and why, is in the audit log.

    Example: finmaas archive read req_06f2k8qv3x.answer --reason "complaint 2026-118"
    """
    with connect() as client:
        text = client.archive.read(record, reason)
    if as_json:
        print_json({"id": record, "text": text})
    else:
        typer.echo(text)
