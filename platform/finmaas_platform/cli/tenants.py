"""`finmaas tenant`: business units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from finmaas_platform.cli.options import ADMINISTRATION, JsonOption, connect
from finmaas_platform.cli.terminal import Column, show_items, show_object

if TYPE_CHECKING:
    from finmaas_platform.sdk.objects import Tenant

app = typer.Typer(no_args_is_help=True, help="Business units: owners of quota and cost.")
NameArgument = Annotated[str, typer.Argument(help="Name of the tenant.")]
COLUMNS = (
    Column("Name", lambda t: t.name),
    Column("Display name", lambda t: t.display_name),
    Column("State", lambda t: t.state),
    Column("Created", lambda t: t.created_at),
)


def register(root: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    root.add_typer(app, name="tenant", rich_help_panel=ADMINISTRATION)


@app.command("list")
def list_tenants(as_json: JsonOption = False) -> None:
    """List the tenants you may see.

    Example: finmaas tenant list
    """
    with connect() as client:
        show_items(client.tenants.list(), COLUMNS, as_json=as_json, empty="No tenant is in your sight.")


@app.command("create")
def create_tenant(
    name: NameArgument,
    display_name: Annotated[str, typer.Option("--display-name", help="Name for people.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Make a tenant.

    Example: finmaas tenant create retail --display-name "Retail banking"
    """
    with connect() as client:
        _show(client.tenants.create(name, display_name), as_json)


@app.command("show")
def show_tenant(name: NameArgument, as_json: JsonOption = False) -> None:
    """Show one tenant.

    Example: finmaas tenant show retail
    """
    with connect() as client:
        _show(client.tenants.get(name), as_json)


@app.command("freeze")
def freeze_tenant(name: NameArgument, as_json: JsonOption = False) -> None:
    """Forbid all changes and requests of a tenant until it is activated again.

    Example: finmaas tenant freeze retail
    """
    with connect() as client:
        _show(client.tenants.update(name, state="frozen"), as_json)


@app.command("activate")
def activate_tenant(name: NameArgument, as_json: JsonOption = False) -> None:
    """Let a frozen tenant work again.

    Example: finmaas tenant activate retail
    """
    with connect() as client:
        _show(client.tenants.update(name, state="active"), as_json)


@app.command("set")
def set_up_tenant(
    name: NameArgument,
    time_zone: Annotated[
        str | None, typer.Option("--time-zone", help="In which its days begin, e.g. Asia/Shanghai.", show_default=False)
    ] = None,
    fiscal_day: Annotated[
        int | None,
        typer.Option("--fiscal-day", min=1, max=28, help="Day on which its months begin.", show_default=False),
    ] = None,
    currency: Annotated[
        str | None, typer.Option("--currency", help="The money it pays in, e.g. CNY.", show_default=False)
    ] = None,
    cost_centre: Annotated[
        str | None, typer.Option("--cost-centre", help="Where its usage is booked.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Set how a tenant's days, months and money are reckoned.

    Example: finmaas tenant set retail --time-zone Asia/Shanghai --fiscal-day 26
    """
    with connect() as client:
        tenant = client.tenants.update(
            name, time_zone=time_zone, fiscal_day=fiscal_day, currency=currency, cost_centre=cost_centre
        )
        _show(tenant, as_json)


def _show(tenant: Tenant, as_json: bool) -> None:
    fields = (
        ("name", tenant.name),
        ("display name", tenant.display_name),
        ("time zone", tenant.time_zone),
        ("months begin on day", str(tenant.fiscal_day)),
        ("currency", tenant.currency),
        ("cost centre", tenant.cost_centre or "-"),
        ("state", tenant.state),
        ("id", tenant.id),
        ("created", tenant.created_at),
    )
    show_object(tenant, fields, as_json=as_json)
