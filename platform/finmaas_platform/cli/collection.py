"""`finmaas gc`: removing what nothing names from the blob store."""

from __future__ import annotations

from typing import Annotated

import typer

from finmaas_platform.cli.options import ADMINISTRATION, JsonOption, connect
from finmaas_platform.cli.terminal import format_bytes, format_time, print_json, say, show_object


def register(root: typer.Typer) -> None:
    """Adds the command to the CLI."""
    root.command("gc", rich_help_panel=ADMINISTRATION)(collect)
    root.command("rotate-blob-key", rich_help_panel=ADMINISTRATION)(rotate_key)


def collect(
    remove: Annotated[bool, typer.Option("--remove", help="Remove it; without this, only say what would be.")] = False,
    grace_hours: Annotated[
        float, typer.Option("--grace-hours", min=1, help="What was put or asked for so lately stays.")
    ] = 24,
    as_json: JsonOption = False,
) -> None:
    """Remove bytes that no version, draft, job or file names. Without --remove it only looks.

    Example: finmaas gc --remove
    """
    with connect() as client:
        found = client.store.collect(dry_run=not remove, grace_hours=grace_hours)
    fields = (
        ("blobs", f"{found.blobs:,}"),
        ("named", f"{found.named:,}"),
        ("in grace", f"{found.waiting:,}"),
        ("locked", f"{found.held:,}, the last until {format_time(found.held_until)}" if found.held_until else "0"),
        ("removed" if remove else "garbage", f"{found.removed:,} ({format_bytes(found.removed_bytes)})"),
    )
    show_object(found, fields, as_json=as_json)
    if not as_json and not remove and found.removed:
        say("Nothing was removed. To do it: finmaas gc --remove")


def rotate_key(as_json: JsonOption = False) -> None:
    """Rotate the key that wraps the keys of encrypted blobs. No blob is rewritten.

    Example: finmaas rotate-blob-key
    """
    with connect() as client:
        name = client.store.rotate_key()
    if as_json:
        print_json({"wrapping_key": name})
    else:
        say(f"Every data key is wrapped by {name} now.")
