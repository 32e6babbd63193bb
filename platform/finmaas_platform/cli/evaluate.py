"""`finmaas evaluate`: scoring a model version on a held-back split."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from finmaas_platform.cli.datasets import Split
from finmaas_platform.cli.options import (
    DEFAULT_PROJECT,
    WORK,
    JsonOption,
    ProjectOption,
    WaitOption,
    complete_dataset,
    complete_model,
)
from finmaas_platform.cli.train import read_settings, run_job


def register(root: typer.Typer) -> None:
    """Adds the command to the CLI."""
    root.command("evaluate", rich_help_panel=WORK)(evaluate)


def evaluate(
    model: Annotated[
        str, typer.Argument(help="Model version under test, as name or name@3.", autocompletion=complete_model)
    ],
    dataset: Annotated[
        str, typer.Argument(help="Dataset version, as name or name@3.", autocompletion=complete_dataset)
    ],
    project: ProjectOption = DEFAULT_PROJECT,
    base: Annotated[
        str | None,
        typer.Option("--base", help="Untuned model version to put beside it.", show_default=False),
    ] = None,
    split: Annotated[Split, typer.Option("--split", help="Which part of the rows.")] = Split.TEST,
    max_rows: Annotated[
        int | None, typer.Option("--max-rows", min=1, help="Only the first rows (default: all).", show_default=False)
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of the spec, as name=value; repeat for more.", show_default=False),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only check whether the spec can work.")] = False,
    wait: WaitOption = True,
    as_json: JsonOption = False,
) -> None:
    """Score a model version, with the untuned base, the majority class and TF-IDF + linear beside it.

    Example: finmaas evaluate intents@1 intents@1 --base tiny@1
    """
    spec: dict[str, Any] = {**read_settings(setting or []), "model": model, "dataset": dataset, "split": split}
    if base is not None:
        spec["base"] = base
    if max_rows is not None:
        spec["max_rows"] = max_rows
    run_job("evaluation", spec, project, check=check, wait=wait, as_json=as_json)
