"""`finmaas model release`, `drafts`, `discard`: what Hub clients have uploaded, and making a version of it."""

from __future__ import annotations

from typing import Annotated

import typer

from finmaas_platform.cli import datasets, models
from finmaas_platform.cli.options import DEFAULT_PROJECT, AnyProjectOption, JsonOption, ProjectOption, connect
from finmaas_platform.cli.terminal import Column, format_bytes, print_json, say, show_items

NameArgument = Annotated[str, typer.Argument(help="The model, by name.", metavar="MODEL")]
COLUMNS = (
    Column("Model", lambda d: f"{d.project}/{d.name}"),
    Column("Revision", lambda d: d.revision[:12]),
    Column("Files", lambda d: len(d.files), right=True),
    Column("Size", lambda d: format_bytes(d.size_bytes), right=True),
    Column("Message", lambda d: d.message),
    Column("By", lambda d: d.updated_by),
    Column("Changed", lambda d: d.updated_at),
)


def register(_root: typer.Typer) -> None:
    """Adds the commands to `finmaas model`."""
    models.app.command("drafts")(list_drafts)
    models.app.command("release")(release_model)
    models.app.command("discard")(discard_draft)
    datasets.app.command("import-draft")(import_draft)


def list_drafts(project: AnyProjectOption = None, as_json: JsonOption = False) -> None:
    """List what was uploaded with Hugging Face tools and is not a version yet.

    Example: finmaas model drafts
    """
    with connect() as client:
        show_items(
            client.drafts.list("model", project),
            COLUMNS,
            as_json=as_json,
            empty="No draft is open; uploads with Hugging Face tools open one.",
        )


def release_model(
    name: NameArgument,
    project: ProjectOption = DEFAULT_PROJECT,
    base: Annotated[
        str | None, typer.Option("--base", help="For an adapter: the model version it sits on.", show_default=False)
    ] = None,
    description: Annotated[
        str | None,
        typer.Option(
            "--description", help="A note for people (default: the last commit's message).", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make the next version of what was uploaded with Hugging Face tools.

    Example: finmaas model release intents
    """
    with connect() as client:
        version = client.drafts.release_model(name, project, base=base, description=description)
    models.show_version(version, as_json)


def discard_draft(name: NameArgument, project: ProjectOption = DEFAULT_PROJECT, as_json: JsonOption = False) -> None:
    """Drop what was uploaded with Hugging Face tools since the newest version.

    Example: finmaas model discard intents
    """
    with connect() as client:
        client.drafts.discard("model", name, project)
    if as_json:
        print_json({"project": project, "name": name, "draft": None})
        return
    say(f"The draft of {name} is discarded.")


def import_draft(
    name: Annotated[str, typer.Argument(help="The dataset, by name.", metavar="DATASET")],
    project: ProjectOption = DEFAULT_PROJECT,
    shape: Annotated[
        str | None, typer.Option("--shape", help="What a row is (default: told by the columns).", show_default=False)
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="Column with the text.", show_default=False)] = None,
    label: Annotated[str | None, typer.Option("--label", help="Column with the label.", show_default=False)] = None,
    group: Annotated[
        str | None, typer.Option("--group", help="Column whose equal values stay in one split.", show_default=False)
    ] = None,
    splits: Annotated[
        str | None, typer.Option("--splits", help="Shares of train, validation and test.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make the next version of the rows that were uploaded with Hugging Face tools; they are split anew.

    Example: finmaas dataset import-draft questions --text text --label label
    """
    with connect() as client:
        version = client.drafts.release_dataset(
            name, project, shape=shape, text=text, label=label, group=group, splits=splits
        )
    datasets.show_version(version, as_json)
