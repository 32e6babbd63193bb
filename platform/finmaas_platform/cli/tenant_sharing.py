"""`finmaas tenant sharing`: what holds for a tenant at the gateways."""

from __future__ import annotations

from typing import Annotated

import typer

from finmaas_platform.cli.options import JsonOption, connect
from finmaas_platform.cli.tenants import app
from finmaas_platform.cli.terminal import show_object


def register(root: typer.Typer) -> None:
    """The command hangs on `finmaas tenant`, which registers itself."""


@app.command("sharing")
def sharing(
    name: Annotated[str, typer.Argument(help="Name of the tenant.")],
    weight: Annotated[
        float | None,
        typer.Option("--weight", min=0.001, help="Among the tenants that wait (1 is usual).", show_default=False),
    ] = None,
    max_staleness_s: Annotated[
        int | None,
        typer.Option(
            "--max-staleness-s",
            min=0,
            help="Seconds after which a gateway that is cut off refuses the tenant; 0: it never does.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show or change a tenant's weight at busy endpoints, and how old a snapshot may judge it.

    Example: finmaas tenant sharing retail --weight 3 --max-staleness-s 600
    """
    with connect() as client:
        if weight is not None:
            client.sharing.set_weight(name, weight)
        if max_staleness_s is not None:
            client.sharing.set_max_staleness(name, max_staleness_s or None)
        found = client.sharing.get(name)
    bound = found.max_staleness_s
    fields = (
        ("tenant", found.tenant),
        ("weight", f"{found.weight:g}"),
        ("max_staleness", "none: served however long a gateway is cut off" if bound is None else f"{bound} s"),
    )
    show_object(found, fields, as_json=as_json)
