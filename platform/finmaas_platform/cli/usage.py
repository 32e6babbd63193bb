"""`finmaas usage`: what requests through the gateway used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

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
LINES = (
    Column("Requests", lambda x: x.requests, right=True),
    Column("Input", lambda x: x.input_tokens, right=True),
    Column("of it cached", lambda x: x.cached_tokens, right=True),
    Column("Output", lambda x: x.output_tokens, right=True),
    Column("of it reasoning", lambda x: x.reasoning_tokens, right=True),
    Column("Cost", lambda x: "no price" if x.cost is None else f"{x.cost} {x.currency}", right=True),
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


@app.command("export")
def export(
    since: Annotated[str, typer.Option("--since", help="First day, as 2026-01-01.", show_default=False)],
    until: Annotated[str, typer.Option("--until", help="Last day, included.", show_default=False)],
    by: Annotated[
        list[str],
        typer.Option("--by", help="Sum by key, project, tenant, model, cost_centre or day; may be repeated."),
    ] = ["project", "model"],  # noqa: B006 - Typer reads it, nothing changes it
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant.", show_default=False)] = None,
    project: AnyProjectOption = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV for finance.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Sum tokens and cost by key, project, tenant, model, cost centre or day.

    Example: finmaas usage export --since 2026-01-01 --until 2026-01-31 --by cost_centre --csv
    """
    with connect() as client:
        if as_csv:
            typer.echo(client.usage.export_csv(since, until, by, tenant, project), nl=False)
            return
        lines = client.usage.export(since, until, by, tenant, project)
    if as_json:
        print_json([line.to_json() for line in lines])
    elif lines:
        groups = [Column(name.replace("_", " ").capitalize(), _group(name)) for name in lines[0].group]
        print_table(lines, (*groups, *LINES))
    else:
        say("Nothing was used in that time.")


def _group(name: str) -> Callable[[Any], str]:
    return lambda line: str(line.group[name])
