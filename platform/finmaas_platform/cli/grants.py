"""`finmaas grant`: calling another project's endpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from finmaas_platform.cli.options import SERVING, AnyProjectOption, JsonOption, connect
from finmaas_platform.cli.terminal import Column, print_json, say, show_items, tell_state

app = typer.Typer(no_args_is_help=True, help="Lets a project call another project's endpoint.")
COLUMNS = (
    Column("Endpoint", lambda g: g.endpoint),
    Column("Project that may call", lambda g: g.project),
    Column("State", lambda g: tell_state(g.revoked_at, None)),
    Column("Created", lambda g: g.created_at),
    Column("Id", lambda g: g.id),
)


def register(root: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    root.add_typer(app, name="grant", rich_help_panel=SERVING)


@app.command("list")
def list_grants(project: AnyProjectOption = None, as_json: JsonOption = False) -> None:
    """List grants, given and received.

    Example: finmaas grant list
    """
    with connect() as client:
        show_items(client.grants.list(project), COLUMNS, as_json=as_json, empty="No grant yet: finmaas grant create …")


@app.command("create")
def create_grant(
    endpoint: Annotated[str, typer.Argument(help="The endpoint, as tenant/project/name.")],
    to: Annotated[str, typer.Option("--to", help="The project that may call it, as tenant/project.")],
    as_json: JsonOption = False,
) -> None:
    """Let a project call an endpoint of another.

    Example: finmaas grant create retail/service/intents --to cards/fraud
    """
    with connect() as client:
        made = client.grants.create(endpoint, to)
    if as_json:
        print_json(made.to_json())
        return
    say(f"{made.project} may now call {made.endpoint} ({made.id}).")


@app.command("revoke")
def revoke_grant(
    grant_id: Annotated[str, typer.Argument(help="Id of the grant (grt_…).")], as_json: JsonOption = False
) -> None:
    """Take a grant back.

    Example: finmaas grant revoke grt_06f2k8qv3x
    """
    with connect() as client:
        revoked = client.grants.revoke(grant_id)
    if as_json:
        print_json(revoked.to_json())
        return
    say(f"{revoked.project} may no longer call {revoked.endpoint}.")
