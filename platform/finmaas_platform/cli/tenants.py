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


def _show(tenant: Tenant, as_json: bool) -> None:
    fields = (
        ("name", tenant.name),
        ("display name", tenant.display_name),
        ("state", tenant.state),
        ("id", tenant.id),
        ("created", tenant.created_at),
    )
    show_object(tenant, fields, as_json=as_json)
