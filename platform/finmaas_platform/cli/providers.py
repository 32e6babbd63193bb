"""`finmaas provider`: OpenAI-compatible services outside, and the projects that may use them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from finmaas_platform.cli.options import ADMINISTRATION, JsonOption, connect
from finmaas_platform.cli.terminal import Column, print_json, say, show_items

app = typer.Typer(no_args_is_help=True, help="Providers outside: fallbacks for projects that are approved for one.")
NameArgument = Annotated[str, typer.Argument(help="Name of the provider.")]
ProjectArgument = Annotated[str, typer.Argument(help="The project, as tenant/project.", metavar="TENANT/PROJECT")]
COLUMNS = (
    Column("Name", lambda p: p.name),
    Column("Address", lambda p: p.base_url),
    Column("Approved for", lambda p: ", ".join(one.project for one in p.approvals) or "nobody", fold=True),
    Column("Created", lambda p: p.created_at),
)


def register(root: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    root.add_typer(app, name="provider", rich_help_panel=ADMINISTRATION)


@app.command("list")
def list_providers(as_json: JsonOption = False) -> None:
    """List providers and who may use them.

    Example: finmaas provider list
    """
    with connect() as client:
        show_items(client.providers.list(), COLUMNS, as_json=as_json, empty="No provider outside is known.")


@app.command("create")
def create_provider(
    name: NameArgument,
    base_url: Annotated[str, typer.Argument(help="Its address, up to and with /v1.")],
    as_json: JsonOption = False,
) -> None:
    """Make a provider known; its API key is read from standard input.

    Example: finmaas provider create partner-cloud https://llm.example.com/v1
    """
    secret = typer.prompt("API key", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline().strip()
    if not secret:
        raise typer.BadParameter("no API key came on standard input")
    with connect() as client:
        made = client.providers.create(name, base_url, secret)
    if as_json:
        print_json(made.to_json())
        return
    say(f"{made.name} is known; no project may use it yet: finmaas provider approve {made.name} <tenant>/<project>")


@app.command("delete")
def delete_provider(name: NameArgument, as_json: JsonOption = False) -> None:
    """Forget a provider, its API key and its approvals.

    Example: finmaas provider delete partner-cloud
    """
    with connect() as client:
        client.providers.delete(name)
    if as_json:
        print_json({"deleted": name})
        return
    say(f"{name} is forgotten.")


@app.command("approve")
def approve(name: NameArgument, project: ProjectArgument, as_json: JsonOption = False) -> None:
    """Let a project's requests go to a provider, masked; for platform-admins and approvers.

    Example: finmaas provider approve partner-cloud retail/service
    """
    with connect() as client:
        provider = client.providers.approve(name, project)
    if as_json:
        print_json(provider.to_json())
        return
    say(f"{project} may use {name} in the fallbacks of its endpoints; personal data is masked on the way.")


@app.command("withdraw")
def withdraw(name: NameArgument, project: ProjectArgument, as_json: JsonOption = False) -> None:
    """Take an approval back.

    Example: finmaas provider withdraw partner-cloud retail/service
    """
    with connect() as client:
        client.providers.withdraw(name, project)
    if as_json:
        print_json({"provider": name, "project": project, "approved": False})
        return
    say(f"{project} may no longer use {name}.")
