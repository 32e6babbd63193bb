"""`finmaas whoami`: the principal behind the token in use."""

from __future__ import annotations

import typer

from finmaas_platform.cli.options import ADMINISTRATION, JsonOption, connect
from finmaas_platform.cli.terminal import show_object


def register(root: typer.Typer) -> None:
    """Adds the command to the CLI."""
    root.command("whoami", rich_help_panel=ADMINISTRATION)(whoami)


def whoami(as_json: JsonOption = False) -> None:
    """Show who you are to the platform, and which one you talk to.

    Example: finmaas whoami
    """
    with connect() as client:
        me = client.whoami()
        fields = (
            ("name", me.name),
            ("role", me.role),
            ("tenant", me.tenant or "all"),
            ("id", me.id),
            ("platform", client.url),
        )
    show_object(me, fields, as_json=as_json)
