"""`finmaas key`: credentials of projects at the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from finmaas_platform.sdk.objects import ApiKey

app = typer.Typer(no_args_is_help=True, help="API keys: what applications send to the gateway.")
COLUMNS = (
    Column("Name", lambda k: k.name),
    Column("Project", lambda k: k.project),
    Column("Models", lambda k: ", ".join(k.models), fold=True),
    Column("State", lambda k: tell_state(k.revoked_at, k.expires_at)),
    Column("Expires", lambda k: k.expires_at),
    Column("Id", lambda k: k.id),
)
HOUR_S, DAY_S = 3600, 86_400


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
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="What it may ask for, e.g. chat.completions; repeatable.", show_default=False),
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option("--network", help="Where it may come from, e.g. 10.1.0.0/16; repeatable.", show_default=False),
    ] = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="Its requests wait for all others where replicas are busy.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make an API key; its secret is shown this once.

    Example: finmaas key create mobile-app --model intents --network 10.1.0.0/16 --days 90
    """
    lifetime = None if days is None else days * DAY_S
    with connect() as client:
        made = client.keys.create(
            project, name, model or ["*"], lifetime, method or ["*"], network or [], "batch" if batch else "interactive"
        )
        _show_new(made, client.gateway_url, as_json)


@app.command("rotate")
def rotate_key(
    key_id: Annotated[str, typer.Argument(help="Id of the key (key_…).")],
    overlap_hours: Annotated[int, typer.Option("--overlap-hours", min=0, help="How long the old key goes on.")] = 24,
    as_json: JsonOption = False,
) -> None:
    """Make a new key of the same scope; the old one goes on for a while, so that applications can change over.

    Example: finmaas key rotate key_06f2k8qv3x --overlap-hours 48
    """
    with connect() as client:
        made = client.keys.rotate(key_id, overlap_hours * HOUR_S)
        _show_new(made, client.gateway_url, as_json)


def _show_new(made: ApiKey, gateway_url: str, as_json: bool) -> None:
    if as_json:
        print_json(made.to_json())
        return
    print_secret(
        f"API key {made.name} of {made.project}",
        made.key,
        f"Use it with any OpenAI client: base_url={gateway_url}/v1 api_key=<key>",
    )


@app.command("revoke-all")
def revoke_keys(
    project: AnyProjectOption = None,
    days: Annotated[
        int | None, typer.Option("--older-than-days", min=0, help="Only keys of this age.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show which keys would end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """End all keys of a project, of an age, or both.

    Example: finmaas key revoke-all --project retail/service --older-than-days 90 --dry-run
    """
    with connect() as client:
        ended = client.keys.revoke_many(project, None if days is None else days * DAY_S, dry_run=dry_run)
    show_items(ended, COLUMNS, as_json=as_json, empty="No living key fits.")
    if ended and not as_json:
        say(f"{len(ended)} key(s) {'would end' if dry_run else 'have ended'}.")


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
