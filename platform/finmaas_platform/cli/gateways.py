"""`finmaas gateway`: which gateways run, and what goes through them now."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from finmaas_platform.cli.options import SERVING, JsonOption, connect
from finmaas_platform.cli.terminal import Column, make_console, print_json, show_items

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Group
    from rich.text import Text

    from finmaas_platform.cli.gateway_rates import Left, Rate
    from finmaas_platform.sdk.client import Client
    from finmaas_platform.sdk.objects import Gateway

LOW = 0.1  # of an allowance: soon requests are refused
app = typer.Typer(no_args_is_help=True, help="Gateway processes, and what goes through them.")
GATEWAYS = (
    Column("Gateway", lambda g: g.gateway_id),
    Column("State", lambda g: g.state),
    Column("Snapshot", lambda g: g.snapshot, right=True),
    Column("confirmed s ago", lambda g: g.snapshot_age_s, right=True),
    Column("Replicas", lambda g: g.replicas, right=True),
    Column("Running", lambda g: g.running, right=True),
    Column("Connections", lambda g: g.connections, right=True),
    Column("Usage waiting", lambda g: g.usage_waiting, right=True),
    Column("Refused", lambda g: sum(g.refused.values()), right=True),
)


def register(root: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    root.add_typer(app, name="gateway", rich_help_panel=SERVING)


@app.command("list")
def list_gateways(as_json: JsonOption = False) -> None:
    """List the gateway processes that reported within the last hour.

    Example: finmaas gateway list
    """
    with connect() as client:
        empty = "No gateway has reported: finmaas status shows what runs"
        show_items(client.gateways.list(), GATEWAYS, as_json=as_json, empty=empty)


@app.command("top")
def show_top(
    every_s: Annotated[float, typer.Option("--every", min=0.5, help="Seconds between two readings.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="One reading, then end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show, live, what goes through the gateways: requests, tokens, errors and times by endpoint and project.

    The last column is what is left of the allowance that binds most, as a share of its limit. Ends with Ctrl-C.

    Example: finmaas gateway top
    """
    from rich.live import Live

    from finmaas_platform.cli.gateway_rates import compute_rates

    with connect() as client:
        before, at = client.gateways.list(), time.monotonic()
        if once or as_json:
            time.sleep(every_s)
            after = client.gateways.list()
            rates = note_left(client, compute_rates(before, after, time.monotonic() - at))
            if as_json:
                print_json({"rates": [asdict(rate) for rate in rates], "gateways": [one.to_json() for one in after]})
            else:
                make_console().print(draw_top(after, rates))
            return
        with Live(draw_top(before, []), console=make_console(), screen=True, auto_refresh=False) as live:
            while True:
                try:
                    time.sleep(every_s)
                    after, now = client.gateways.list(), time.monotonic()
                    rates = note_left(client, compute_rates(before, after, now - at))
                    live.update(draw_top(after, rates), refresh=True)
                    before, at = after, now
                except KeyboardInterrupt:
                    return


def note_left(client: Client, rates: Sequence[Rate]) -> Sequence[Rate]:
    """The same, with what is left of their allowances; nothing is noted for who may not see those."""
    from finmaas_core.errors import NotAllowed
    from finmaas_platform.cli.gateway_rates import find_least

    try:
        allowances = list(client.allowances.list()) if rates else []
    except NotAllowed:
        return rates
    for rate in rates:
        rate.left = find_least(rate, allowances)
    return rates


def draw_top(gateways: Sequence[Gateway], rates: Sequence[Rate]) -> Group:
    """A line about the gateways and a table of what they do."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for heading in ("Endpoint", "Tenant", "Project"):
        table.add_column(heading, overflow="fold")  # names give way to figures
    for heading in ("req/s", "tokens/s", "TTFT p50", "p99", "errors/s", "requests"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("Left", no_wrap=True)
    for rate in rates:
        cells = [rate.endpoint, rate.tenant, rate.project.partition("/")[2], f"{rate.requests_per_s:,.1f}"]
        times = map(_milliseconds, (rate.first_token_p50_ms, rate.first_token_p99_ms))
        cells += [f"{rate.tokens_per_s:,.0f}", *times]
        errors = Text(f"{rate.errors_per_s:,.1f}", style="red" if rate.errors_per_s else "dim")
        table.add_row(
            *cells, errors, f"{rate.requests:,}", _left(rate.left), style="" if rate.requests_per_s else "dim"
        )
    words = Text()
    for one in gateways:
        style = {"ready": "green", "draining": "yellow", "starting": "yellow"}.get(one.state, "red")
        words.append(f"● {one.gateway_id} ", style=style)
        words.append(f"{one.state}, {one.running} running, {one.connections} connections, ")
        words.append(f"{one.usage_waiting} to deliver   ")
    if not gateways:
        words.append("no gateway has reported within the last hour", style="red")
    totals = Text(
        f"{sum(r.requests_per_s for r in rates):,.1f} req/s   {sum(r.tokens_per_s for r in rates):,.0f} tokens/s   "
        f"{sum(r.errors_per_s for r in rates):,.1f} errors/s",
        style="bold",
    )
    return Group(words, totals, Text(), table if rates else Text("no request yet", style="dim"))


def _left(left: Left | None) -> Text:
    from rich.text import Text

    if left is None:
        return Text("–", style="dim")
    style = "red" if left.share < LOW else "yellow" if left.share < 2 * LOW else "green"
    return Text(f"{left.share:4.0%} {left.unit.replace('_', ' ')}/{left.window}", style=style)


def _milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f} ms" if value >= 10 else f"{value:.1f} ms"
