"""`finmaas train`: fine-tuning a base on a dataset."""

from __future__ import annotations

import json
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from finmaas_platform.cli.options import (
    DEFAULT_PROJECT,
    WORK,
    JsonOption,
    ProjectOption,
    WaitOption,
    complete_dataset,
    complete_model,
    connect,
)
from finmaas_platform.cli.terminal import print_json, say


class Device(StrEnum):
    """What the workers run on."""

    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"


def register(root: typer.Typer) -> None:
    """Adds the command to the CLI."""
    root.command("train", rich_help_panel=WORK)(train)


def train(
    base: Annotated[
        str,
        typer.Argument(help="Model version to start from, as name or name@3.", autocompletion=complete_model),
    ],
    dataset: Annotated[
        str,
        typer.Argument(help="Dataset version to learn from, as name or name@3.", autocompletion=complete_dataset),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Model that the result becomes a version of.")],
    project: ProjectOption = DEFAULT_PROJECT,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Passes over the rows.")] = None,
    max_steps: Annotated[int | None, typer.Option("--max-steps", min=1, help="End after so many steps.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Rows per step, over all workers.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="Peak learning rate.")] = None,
    max_length: Annotated[int | None, typer.Option("--max-length", min=16, help="Tokens per row.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Training processes.")] = None,
    device: Annotated[Device | None, typer.Option("--device", help="What the workers run on.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of order and initialisation.")] = None,
    spec_file: Annotated[
        Path | None,
        typer.Option(
            "--spec",
            help="More fields of the spec, as .yaml, .toml or .json.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of the spec, as name=value; repeat for more.", show_default=False),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only check whether the spec can work.")] = False,
    wait: WaitOption = True,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a model, with live loss and a curve at the end. Ctrl-C leaves the job running.

    What is not given takes the platform's default; docs/reference lists every field of the spec.

    Example: finmaas train tiny intents@1 --output intents --epochs 3

    Example: finmaas train qwen3-0.6b intents --output intents --learning-rate 2e-5 --set zero_stage=3
    """
    given: dict[str, Any] = {
        "epochs": epochs,
        "max_steps": max_steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "max_length": max_length,
        "workers": workers,
        "device": device,
        "seed": seed,
    }
    spec = {
        **read_spec_file(spec_file),
        **{name: value for name, value in given.items() if value is not None},
        **read_settings(setting or []),
        "base": base,
        "dataset": dataset,
        "output": output,
    }
    run_job("training", spec, project, check=check, wait=wait, as_json=as_json)


def run_job(kind: str, spec: dict[str, Any], project: str, *, check: bool, wait: bool, as_json: bool) -> None:
    """Checks or submits a job, and watches it if asked."""
    with connect() as client:
        if check:
            answer = client.jobs.validate(kind, spec, project)
            print_json(answer) if as_json else say("The spec can work.")
            return
        job = client.jobs.submit(kind, spec, project)
        if wait:
            from finmaas_platform.cli.watch import watch_job

            watch_job(client, job.id, as_json=as_json)
        elif as_json:
            print_json(job.to_json())
        else:
            say(f"{job.id} is {job.state}. Watch it: finmaas job watch {job.id}")


def read_spec_file(path: Path | None) -> dict[str, Any]:
    """The fields in a .json, .toml or .yaml file; a usage error for anything else."""
    if path is None:
        return {}
    text = path.read_text(encoding="utf-8")
    try:
        fields = _parse_spec(text, path.suffix)
    except ValueError as error:
        raise typer.BadParameter(f"{path} cannot be read as {path.suffix or 'JSON'}: {error}") from None
    if not isinstance(fields, dict):
        raise typer.BadParameter(f"{path} holds no object of fields")
    return fields


def _parse_spec(text: str, suffix: str) -> Any:
    if suffix == ".toml":
        return tomllib.loads(text)
    return _parse_yaml(text) if suffix in {".yaml", ".yml"} else json.loads(text)


def _parse_yaml(text: str) -> Any:
    import yaml  # type: ignore[import-untyped]  # only here, so that help and completion start without it

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def read_settings(settings: list[str]) -> dict[str, Any]:
    """`["zero_stage=3", "precision=bf16"]` as fields; values are JSON where they can be read as such, else text."""
    fields: dict[str, Any] = {}
    for setting in settings:
        name, sign, value = setting.partition("=")
        if not sign or not name:
            raise typer.BadParameter(f"{setting!r} is no setting; write name=value")
        try:
            fields[name] = json.loads(value)
        except ValueError:
            fields[name] = value
    return fields
