"""`finmaas principal`: users and service accounts."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from finmaas_platform.cli.options import ADMINISTRATION, JsonOption, connect
from finmaas_platform.cli.terminal import Column, show_items, show_object
from finmaas_platform.domain.principals import Role

if TYPE_CHECKING:
    from finmaas_platform.sdk.objects import Principal


class Kind(StrEnum):
    """Who stands behind a principal."""

    USER = "user"
    SERVICE = "service"


app = typer.Typer(no_args_is_help=True, help="Users and service accounts, and their roles.")
NameArgument = Annotated[str, typer.Argument(help="Name or id of the principal.", metavar="PRINCIPAL")]
COLUMNS = (
    Column("Name", lambda p: p.name),
    Column("Kind", lambda p: p.kind),
    Column("Role", lambda p: p.role),
    Column("Tenant", lambda p: p.tenant or "all"),
    Column("State", lambda p: "disabled" if p.disabled else "active"),
    Column("Id", lambda p: p.id),
)


def register(root: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    root.add_typer(app, name="principal", rich_help_panel=ADMINISTRATION)


@app.command("list")
def list_principals(as_json: JsonOption = False) -> None:
    """List users and service accounts.

    Example: finmaas principal list
    """
    with connect() as client:
        show_items(client.principals.list(), COLUMNS, as_json=as_json, empty="No principal is in your sight.")


@app.command("create")
def create_principal(
    name: Annotated[str, typer.Argument(help="Name of the user or service account.")],
    role: Annotated[Role, typer.Option("--role", help="What it may do.")],
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Its tenant; none: platform-wide.", show_default=False)
    ] = None,
    kind: Annotated[Kind, typer.Option("--kind", help="A person or a program.")] = Kind.USER,
    as_json: JsonOption = False,
) -> None:
    """Make a user or service account. Give it a token with `finmaas token create`.

    Example: finmaas principal create li.wei --role ml-engineer --tenant retail
    """
    with connect() as client:
        _show(client.principals.create(name, role, tenant, kind), as_json)


@app.command("role")
def change_role(
    name: NameArgument,
    role: Annotated[Role, typer.Argument(help="The new role.")],
    as_json: JsonOption = False,
) -> None:
    """Change what a principal may do.

    Example: finmaas principal role li.wei tenant-admin
    """
    with connect() as client:
        found = client.principals.find(name)
        _show(client.principals.update(found.id, role=role, if_match=found.version), as_json)


@app.command("disable")
def disable_principal(name: NameArgument, as_json: JsonOption = False) -> None:
    """Refuse every token of a principal from now on.

    Example: finmaas principal disable li.wei
    """
    with connect() as client:
        _show(client.principals.update(client.principals.find(name).id, disabled=True), as_json)


@app.command("link")
def link_principal(
    name: NameArgument,
    subject: Annotated[str, typer.Option("--subject", help="The `sub` that the provider knows them by; empty: none.")],
    issuer: Annotated[
        str | None, typer.Option("--issuer", help="Default: the provider of the platform.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Link a principal to a person at the bank's identity provider, who can then `finmaas login`.

    Example: finmaas principal link li.wei --subject 7f3c2a
    """
    with connect() as client:
        found = client.principals.find(name)
        _show(client.principals.update(found.id, issuer=issuer, subject=subject, if_match=found.version), as_json)


@app.command("enable")
def enable_principal(name: NameArgument, as_json: JsonOption = False) -> None:
    """Accept a disabled principal again.

    Example: finmaas principal enable li.wei
    """
    with connect() as client:
        _show(client.principals.update(client.principals.find(name).id, disabled=False), as_json)


def _show(principal: Principal, as_json: bool) -> None:
    fields = (
        ("name", principal.name),
        ("kind", principal.kind),
        ("role", principal.role),
        ("tenant", principal.tenant or "all"),
        ("login", principal.subject and f"{principal.subject} of {principal.issuer}"),
        ("state", "disabled" if principal.disabled else "active"),
        ("id", principal.id),
        ("created", principal.created_at),
    )
    show_object(principal, fields, as_json=as_json)
