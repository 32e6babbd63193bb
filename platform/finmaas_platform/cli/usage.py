"""`finmaas usage`: what requests through the gateway used."""

from __future__ import annotations

from typing import Annotated

import typer

from finmaas_platform.cli.options import SERVING, AnyProjectOption, JsonOption, connect
from finmaas_platform.cli.terminal import Column, print_json, print_table, say, show_items

app = typer.Typer(no_args_is_help=True, help="Requests and tokens, by endpoint or one by one.")
TOTALS = (
    Column("Endpoint", lambda t: t.endpoint or t.endpoint_id),
    Column("Requests", lambda t: t.requests, right=True),
    Column("Prompt tokens", lambda t: t.prompt_tokens, right=True),
    Column("of them cached", lambda t: t.cached_tokens, right=True),
    Column("Completion tokens", lambda t: t.completion_tokens, right=True),
)
RECORDS = (
    Column("At", lambda r: r.at),
    Column("Status", lambda r: str(r.status)),
    Column("Prompt", lambda r: r.prompt_tokens, right=True),
    Column("Completion", lambda r: r.completion_tokens, right=True),
    Column("First token ms", lambda r: r.ttft_ms, right=True),
    Column("Whole ms", lambda r: r.duration_ms, right=True),
    Column("Request", lambda r: r.request_id),
)


def register(root: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    root.add_typer(app, name="usage", rich_help_panel=SERVING)


@app.command("summary")
def show_summary(project: AnyProjectOption = None, as_json: JsonOption = False) -> None:
    """Show totals by endpoint.

    Example: finmaas usage summary
    """
    with connect() as client:
        totals = client.usage.summary(project)
    if as_json:
        print_json([total.to_json() for total in totals])
    elif totals:
        print_table(totals, TOTALS)
    else:
        say('No request yet: finmaas chat <endpoint> "text"')


@app.command("list")
def list_records(
    project: AnyProjectOption = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="Only this endpoint, by id or full name.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List requests one by one.

    Example: finmaas usage list -n 50
    """
    with connect() as client:
        names = {} if as_json else {item.id: item.name for item in client.endpoints.list(project)}
        named = Column("Endpoint", lambda r: names.get(r.endpoint_id, r.endpoint_id))
        show_items(
            client.usage.records(project, endpoint, limit),
            (RECORDS[0], named, *RECORDS[1:]),
            as_json=as_json,
            empty='No request yet: finmaas chat <endpoint> "text"',
        )
