"""`finmaas token`: credentials of principals for REST, registry and CLI."""

from __future__ import annotations

from typing import Annotated

import typer

from finmaas_platform.cli.options import ADMINISTRATION, JsonOption, connect
from finmaas_platform.cli.terminal import Column, print_json, print_secret, say, show_items, tell_state

app = typer.Typer(no_args_is_help=True, help="Access tokens of users and service accounts.")
COLUMNS = (
    Column("Id", lambda t: t.id),
    Column("Principal", lambda t: t.principal or t.principal_id),
    Column("State", lambda t: tell_state(t.revoked_at, t.expires_at)),
    Column("Expires", lambda t: t.expires_at),
    Column("Created", lambda t: t.created_at),
)
DAY_S = 86_400


def register(root: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    root.add_typer(app, name="token", rich_help_panel=ADMINISTRATION)


@app.command("list")
def list_tokens(as_json: JsonOption = False) -> None:
    """List access tokens, without their secrets.

    Example: finmaas token list
    """
    with connect() as client:
        show_items(client.tokens.list(), COLUMNS, as_json=as_json, empty="No access token is in your sight.")


@app.command("create")
def create_token(
    principal: Annotated[str, typer.Argument(help="Name or id of the principal.")],
    days: Annotated[
        int | None, typer.Option("--days", min=1, help="Days until it expires (default: never).", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make an access token; its secret is shown this once.

    Example: finmaas token create li.wei --days 90
    """
    with connect() as client:
        owner = client.principals.find(principal)
        made = client.tokens.create(owner.id, None if days is None else days * DAY_S)
    if as_json:
        print_json(made.to_json())
        return
    print_secret(f"Access token {made.id} of {owner.name}", made.token, "Use it: export FINMAAS_TOKEN=<token>")


@app.command("revoke")
def revoke_token(
    token_id: Annotated[str, typer.Argument(help="Id of the token (tok_…).")], as_json: JsonOption = False
) -> None:
    """End an access token at once.

    Example: finmaas token revoke tok_06f2k8qv3x
    """
    with connect() as client:
        revoked = client.tokens.revoke(token_id)
    if as_json:
        print_json(revoked.to_json())
        return
    say(f"{revoked.id} is revoked.")
