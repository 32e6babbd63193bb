"""The `finmaas` command: the tree of commands, nothing else. Each noun's commands live in the module named after it.

Modules of commands import only typer at their top; the SDK, HTTP and Rich come when a command runs, so that help and
completion answer at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from finmaas_platform.cli import (
    access_tokens,
    allowances,
    api_keys,
    archive,
    audit_events,
    batches,
    chat,
    collection,
    datasets,
    drafts,
    endpoints,
    evaluate,
    gateways,
    grants,
    jobs,
    lifecycle,
    login,
    models,
    policies,
    principals,
    projects,
    providers,
    tenant_sharing,
    tenants,
    traffic,
    train,
    usage,
    version_archives,
    whoami,
)
from finmaas_platform.cli.group import FinmaasGroup

app = typer.Typer(
    name="finmaas",
    cls=FinmaasGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"finmaas {version('finmaas')}")
        except PackageNotFoundError:
            typer.echo("finmaas, from a source tree")
        raise typer.Exit


@app.callback()
def root(
    home: Annotated[
        Path | None,
        typer.Option(
            "--home",
            help="Data folder of the installation to talk to (default: FINMAAS_HOME, the nearest .finmaas above, "
            "~/.finmaas).",
            show_default=False,
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Label, fine-tune, evaluate, register and serve language models on your own machines.

    Start with: finmaas up
    """
    if home is not None:
        os.environ["FINMAAS_HOME"] = str(home.expanduser().resolve())


lifecycle.register(app)
for module in (
    datasets,
    models,
    drafts,
    version_archives,
    train,
    evaluate,
    jobs,
    endpoints,
    chat,
    api_keys,
    grants,
    traffic,
    providers,
    policies,
    batches,
    allowances,
    usage,
    gateways,
    tenants,
    tenant_sharing,
    projects,
    principals,
    access_tokens,
    audit_events,
    archive,
    login,
    collection,
    whoami,
):
    module.register(app)


def main() -> None:
    """Entry point of the `finmaas` script."""
    app()


if __name__ == "__main__":
    main()
