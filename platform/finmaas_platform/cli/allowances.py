"""`finmaas allowance` and `finmaas price`: what may be spent, and what tokens cost."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from finmaas_platform.cli.options import ADMINISTRATION, AnyProjectOption, JsonOption, connect
from finmaas_platform.cli.terminal import Column, print_json, say, show_items, show_object

if TYPE_CHECKING:
    from finmaas_platform.sdk.objects import Allowance

app = typer.Typer(no_args_is_help=True, help="Budgets and limits of tenants, projects, keys, people and models.")
prices_app = typer.Typer(no_args_is_help=True, help="The price book: what tokens cost, from which day on.")
IdArgument = Annotated[str, typer.Argument(help="Id of the allowance.", metavar="ALLOWANCE")]
PriceOption = Annotated[str | None, typer.Option(help="Money for a million tokens.", show_default=False)]


def amount_of(allowance: Allowance, amount: int) -> str:
    """An amount of the allowance's unit, as people write it."""
    from finmaas_core.prices import show_money

    return f"{show_money(amount)} {allowance.currency}" if allowance.unit == "money" else f"{amount:,}"


def _whose(allowance: Allowance) -> str:
    at = f" at {allowance.model}" if allowance.model and allowance.scope != "model" else ""
    return f"{allowance.scope} {allowance.subject.removeprefix(allowance.scope + ' ')}{at}"


COLUMNS = (
    Column("Allowance", lambda a: a.id),
    Column("Of", _whose),
    Column("Unit", lambda a: a.unit.replace("_", " ")),
    Column("Window", lambda a: a.window),
    Column("Limit", lambda a: amount_of(a, a.limit), right=True),
    Column("Spent", lambda a: amount_of(a, a.spent.settled), right=True),
    Column("At gateways", lambda a: amount_of(a, a.spent.held), right=True),
    Column("Free", lambda a: amount_of(a, a.spent.free), right=True),
)
PRICES = (
    Column("Model", lambda p: p.model),
    Column("From", lambda p: p.valid_from),
    Column("Currency", lambda p: p.currency),
    Column("Input / M", lambda p: p.input, right=True),
    Column("Cached / M", lambda p: p.cached_input, right=True),
    Column("Output / M", lambda p: p.output, right=True),
    Column("Reasoning / M", lambda p: p.reasoning, right=True),
)


def register(root: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    root.add_typer(app, name="allowance", rich_help_panel=ADMINISTRATION)
    root.add_typer(prices_app, name="price", rich_help_panel=ADMINISTRATION)


@app.command("list")
def list_allowances(project: AnyProjectOption = None, as_json: JsonOption = False) -> None:
    """List allowances with what is spent of them.

    Example: finmaas allowance list
    """
    with connect() as client:
        empty = "No allowance yet: finmaas allowance set project default/default requests minute 600"
        show_items(client.allowances.list(project), COLUMNS, as_json=as_json, empty=empty)


@app.command("set")
def set_allowance(
    scope: Annotated[str, typer.Argument(help="tenant, project, key, person or model.")],
    subject: Annotated[
        str,
        typer.Argument(help="Its name: tenant, tenant/project, key id, principal id, or tenant/project/endpoint."),
    ],
    unit: Annotated[str, typer.Argument(help="money, tokens, input_tokens, output_tokens, requests or concurrency.")],
    window: Annotated[str, typer.Argument(help="minute, day or month; now for concurrency.")],
    limit: Annotated[str, typer.Argument(help="How much: a whole number, or money such as 500.00.")],
    currency: Annotated[
        str | None, typer.Option("--currency", help="Of money; the tenant's when left out.", show_default=False)
    ] = None,
    model: Annotated[str, typer.Option("--model", help="Only at this endpoint, tenant/project/endpoint.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Set what may be spent; the same again changes the limit and keeps what was spent.

    Example: finmaas allowance set project retail/service money month 500.00
    """
    with connect() as client:
        _show(client.allowances.set(scope, subject, unit, window, limit, currency=currency, model=model), as_json)


@app.command("show")
def show_allowance(allowance_id: IdArgument, as_json: JsonOption = False) -> None:
    """Show an allowance and its present window.

    Example: finmaas allowance show alw_06f2k8qv3x
    """
    with connect() as client:
        _show(client.allowances.get(allowance_id), as_json)


@app.command("delete")
def delete_allowance(allowance_id: IdArgument, as_json: JsonOption = False) -> None:
    """Delete an allowance, with what was counted of it.

    Example: finmaas allowance delete alw_06f2k8qv3x
    """
    with connect() as client:
        client.allowances.delete(allowance_id)
    if as_json:
        print_json({"deleted": allowance_id})
    else:
        say(f"Deleted {allowance_id}; gateways follow within a second.")


@app.command("gateways")
def list_gateways(as_json: JsonOption = False) -> None:
    """List gateways that hold slices of allowances, and when each was heard of.

    Example: finmaas allowance gateways
    """
    columns = (
        Column("Gateway", lambda g: g.gateway),
        Column("Heard of", lambda g: g.seen_at),
        Column("Slices", lambda g: g.slices, right=True),
    )
    with connect() as client:
        show_items(client.allowances.gateways(), columns, as_json=as_json, empty="No gateway holds anything.")


@app.command("write-off")
def write_off(
    gateway: Annotated[str, typer.Argument(help="The gateway, as `finmaas allowance gateways` names it.")],
    as_json: JsonOption = False,
) -> None:
    """Free what a gateway holds that is gone for good, with its spool.

    Example: finmaas allowance write-off gw-2.1f3a9c04
    """
    with connect() as client:
        slices = client.allowances.write_off(gateway)
    if as_json:
        print_json({"gateway": gateway, "slices": slices})
    else:
        say(f"{slices} slices of {gateway} are free again.")


@prices_app.command("list")
def list_prices(
    model: Annotated[str | None, typer.Option("--model", help="Only of this model.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """List prices for a million tokens.

    Example: finmaas price list
    """
    with connect() as client:
        empty = "No price yet: finmaas price set '*' --input 2 --output 6"
        show_items(client.prices.list(model), PRICES, as_json=as_json, empty=empty)


@prices_app.command("set")
def set_price(
    model: Annotated[str, typer.Argument(help="tenant/project/endpoint, or '*' for all without a price.")],
    input_price: Annotated[str, typer.Option("--input", help="Money for a million tokens of input.")],
    output_price: Annotated[str, typer.Option("--output", help="Money for a million tokens of output.")],
    cached_input: PriceOption = None,
    reasoning: PriceOption = None,
    currency: Annotated[str, typer.Option("--currency", help="Of the price.")] = "CNY",
    valid_from: Annotated[
        str | None, typer.Option("--from", help="First day, as 2026-01-31; today when left out.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Set what a model's tokens cost from a day on; what was charged before stays.

    Example: finmaas price set '*' --input 2 --output 6 --from 2026-12-01
    """
    day = valid_from or date.today().isoformat()  # noqa: DTZ011 - the user's own day
    with connect() as client:
        made = client.prices.set(
            model, currency, day, input_price, output_price, cached_input=cached_input, reasoning=reasoning
        )
        show_items([made], PRICES, as_json=as_json, empty="")


def _show(allowance: Allowance, as_json: bool) -> None:
    spent = allowance.spent
    fields = (
        ("allowance", allowance.id),
        ("of", _whose(allowance)),
        ("unit", f"{allowance.unit.replace('_', ' ')} a {allowance.window}"),
        ("limit", amount_of(allowance, allowance.limit)),
        ("spent", amount_of(allowance, spent.settled)),
        ("held by gateways", amount_of(allowance, spent.held)),
        ("of it reserved", amount_of(allowance, spent.reserved)),
        ("free", amount_of(allowance, spent.free)),
        ("renews", spent.ends_at or "-"),
    )
    show_object(allowance, fields, as_json=as_json)
