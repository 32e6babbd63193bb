"""`finmaas key`: credentials of projects at the gateway."""

from __future__ import annotations

from typing import Annotated

import typer

from finmaas_platform.cli.options import (
    DEFAULT_PROJECT,
    SERVING,
    AnyProjectOption,
    JsonOption,
    ProjectOption,
    complete_endpoint,
    connect,
)
from finmaas_platform.cli.terminal import Column, print_json, print_secret, say, show_items, tell_state

app = typer.Typer(no_args_is_help=True, help="API keys: what applications send to the gateway.")
COLUMNS = (
    Column("Name", lambda k: k.name),
    Column("Project", lambda k: k.project),
    Column("Models", lambda k: ", ".join(k.models), fold=True),
    Column("State", lambda k: tell_state(k.revoked_at, k.expires_at)),
    Column("Expires", lambda k: k.expires_at),
    Column("Id", lambda k: k.id),
)
DAY_S = 86_400


def register(root: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    root.add_typer(app, name="key", rich_help_panel=SERVING)


@app.command("list")
def list_keys(project: AnyProjectOption = None, as_json: JsonOption = False) -> None:
    """List API keys, without their secrets.

    Example: finmaas key list --project default/default
    """
    with connect() as client:
        show_items(client.keys.list(project), COLUMNS, as_json=as_json, empty="No key yet: finmaas key create <name>")


@app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    project: ProjectOption = DEFAULT_PROJECT,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Endpoint that the key may call; repeat for more (default: all of the project).",
            autocompletion=complete_endpoint,
            show_default=False,
        ),
    ] = None,
    days: Annotated[
        int | None, typer.Option("--days", min=1, help="Days until it expires (default: never).", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key; its secret is shown this once.

    Example: finmaas key create mobile-app --model intents --days 90
    """
    with connect() as client:
        made = client.keys.create(project, name, model or ["*"], None if days is None else days * DAY_S)
        if as_json:
            print_json(made.to_json())
            return
        base_url = f"{client.gateway_url}/v1"
    print_secret(
        f"API key {made.name} of {made.project}",
        made.key,
        f"Use it with any OpenAI client: base_url={base_url} api_key=<key>",
    )


@app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="Id of the key (key_…).")], as_json: JsonOption = False
) -> None:
    """End an API key; gateways refuse it within a second or two.

    Example: finmaas key revoke key_06f2k8qv3x
    """
    with connect() as client:
        revoked = client.keys.revoke(key_id)
    if as_json:
        print_json(revoked.to_json())
        return
    say(f"{revoked.name} ({revoked.id}) is revoked.")
