"""`finmaas model`: importing folders as immutable versions, and looking at them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finmaas_platform.cli import model_life, model_papers
from finmaas_platform.cli.options import (
    DATA,
    DEFAULT_PROJECT,
    HUB,
    AnyProjectOption,
    EndpointOption,
    JsonOption,
    ProjectOption,
    RevisionOption,
    complete_model,
    connect,
    open_hub,
)
from finmaas_platform.cli.scores import read_scores, score_columns
from finmaas_platform.cli.terminal import Column, format_bytes, print_table, say, show_items, show_object

if TYPE_CHECKING:
    from collections.abc import Callable

    from finmaas_platform.sdk.client import Client
    from finmaas_platform.sdk.objects import ModelVersion

app = typer.Typer(no_args_is_help=True, help="Models: weights as immutable versions, with their lineage.")
RefArgument = Annotated[
    str,
    typer.Argument(help="The model, as name, name@3 or name@alias.", metavar="MODEL", autocompletion=complete_model),
]
COLUMNS = (
    Column("Name", lambda m: m.name),
    Column("Project", lambda m: m.project),
    Column("Newest", lambda m: f"@{m.latest_version}" if m.latest_version else None, right=True),
    Column("State", lambda m: m.latest_state),
    Column("Aliases", lambda m: ", ".join(f"{name}→@{number}" for name, number in m.aliases.items())),
    Column("Created", lambda m: m.created_at),
)
VERSIONS = (
    Column("Version", lambda v: v.ref),
    Column("Kind", lambda v: v.kind),
    Column("State", lambda v: v.state),
    Column("Size", lambda v: format_bytes(v.size_bytes), right=True),
    Column("Job", lambda v: v.lineage.job_id),
    Column("By", lambda v: v.created_by),
    Column("Created", lambda v: v.created_at),
)


def register(root: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    root.add_typer(app, name="model", rich_help_panel=DATA)
    model_life.register(app)
    model_papers.register(app)


@app.command("import")
def import_model(
    name: Annotated[str, typer.Option("--name", "-n", help="Model that this becomes a version of.")],
    folder: Annotated[
        Path | None,
        typer.Argument(help="A Hugging Face folder: config.json, tokenizer, safetensors.", file_okay=False),
    ] = None,
    hub: Annotated[
        str | None, typer.Option("--hub", help="Instead of a folder: a repository, e.g. Qwen/Qwen3-0.6B.")
    ] = None,
    endpoint: EndpointOption = HUB,
    revision: RevisionOption = "main",
    project: ProjectOption = DEFAULT_PROJECT,
    base: Annotated[
        str | None, typer.Option("--base", help="For an adapter: the model version it sits on.", show_default=False)
    ] = None,
    description: Annotated[
        str | None, typer.Option("--description", help="A note for people.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Import a model folder, or a repository of a Hub, as a new version. What the store has is not sent again.

    HF_TOKEN, if it is set, is sent to the Hub, and nowhere else.

    Example: finmaas model import ~/models/Qwen3-0.6B --name qwen3-0.6b
    Example: finmaas model import --hub Qwen/Qwen3-0.6B --endpoint https://mirror.example --name qwen3-0.6b
    """
    from finmaas_platform.cli.progress import show_bytes

    if (folder is None) == (hub is None):
        raise typer.BadParameter("give a folder, or --hub with a repository")
    with connect() as client, show_bytes(f"Importing {hub or folder}") as on_bytes:
        if hub is not None:
            version = _import_from_hub(client, hub, endpoint, revision, name, project, base, description, on_bytes)
        else:
            from finmaas_platform.sdk.transfer import join_stages

            assert folder is not None
            version = client.models.import_folder(
                folder,
                name,
                project,
                base=base,
                description=description,
                on_progress=join_stages(on_bytes),
            )
    show_version(version, as_json)
    if not as_json:
        say(f"Next: finmaas train {name} <dataset> --output <model>, or finmaas deploy {name} --name <endpoint>")


def _import_from_hub(
    client: Client,
    hub: str,
    endpoint: str,
    revision: str,
    name: str,
    project: str,
    base: str | None,
    description: str | None,
    on_bytes: Callable[[int, int], None],
) -> ModelVersion:
    source = open_hub(endpoint, hub, revision, "model")
    version, left = client.models.import_from_hub(
        source, name, project, base=base, description=description, on_progress=on_bytes
    )
    if left:
        say(f"Left behind, since no version may hold it: {', '.join(left[:8])}{', …' if len(left) > 8 else ''}")
    return version


PUSH_HELP = """Push a model folder as a new version; `import` by another name. Killed, it goes on when it is run again.

Example: finmaas model push ./intents --name intents
"""
app.command("push", help=PUSH_HELP)(import_model)


@app.command("pull")
def pull_model(
    ref: RefArgument,
    folder: Annotated[Path, typer.Argument(help="Where its files go; made if missing.", file_okay=False)],
    project: ProjectOption = DEFAULT_PROJECT,
    as_json: JsonOption = False,
) -> None:
    """Fetch a version's files, each checked by its digest. What is there already is not fetched again.

    Example: finmaas model pull intents@3 ./intents
    """
    from finmaas_platform.cli.progress import show_bytes

    with connect() as client, show_bytes(f"Pulling {ref}") as on_bytes:
        version = client.models.download(ref, folder, project, on_progress=on_bytes)
    if as_json:
        show_version(version, as_json)
    else:
        say(f"{folder} holds {version.ref}: {format_bytes(version.size_bytes)} in {len(version.files)} files.")


@app.command("merge")
def merge_models(
    folder: Annotated[Path, typer.Argument(help="The folder that a merge of versions has made.", file_okay=False)],
    name: Annotated[str, typer.Option("--name", "-n", help="Model that this becomes a version of.")],
    parent: Annotated[list[str], typer.Option("--parent", help="A version that it was merged from; give two or more.")],
    project: ProjectOption = DEFAULT_PROJECT,
    description: Annotated[
        str | None, typer.Option("--description", help="How it was merged, for people.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Register a merged model with the versions that it was merged from. The merging itself is your tool's work.

    Example: finmaas model merge ./merged --name assistant --parent faq@2 --parent intents@3
    """
    with connect() as client:
        version = client.models.import_folder(
            folder, name, project, kind="merged", parents=parent, description=description
        )
    show_version(version, as_json)


@app.command("list")
def list_models(project: AnyProjectOption = None, as_json: JsonOption = False) -> None:
    """List models.

    Example: finmaas model list
    """
    with connect() as client:
        show_items(
            client.models.list(project),
            COLUMNS,
            as_json=as_json,
            empty="No model yet: finmaas model import <folder> --name <name>",
        )


@app.command("show")
def show_model(ref: RefArgument, project: ProjectOption = DEFAULT_PROJECT, as_json: JsonOption = False) -> None:
    """Show one version: files, lineage, scores. Without a number the newest.

    Example: finmaas model show intents@1
    """
    with connect() as client:
        show_version(client.models.version(ref, project), as_json)


@app.command("versions")
def list_versions(ref: RefArgument, project: ProjectOption = DEFAULT_PROJECT, as_json: JsonOption = False) -> None:
    """List the versions of a model.

    Example: finmaas model versions intents
    """
    with connect() as client:
        show_items(client.models.versions(ref, project), VERSIONS, as_json=as_json, empty="No version yet.")


def show_version(version: ModelVersion, as_json: bool) -> None:
    """One version as the terminal shows it."""
    fields = (
        ("version", version.ref),
        ("kind", version.kind),
        ("state", version.state),
        ("size", f"{format_bytes(version.size_bytes)} in {len(version.files)} files"),
        ("digest", version.digest[:16]),
        ("description", version.description),
        ("from job", version.lineage.job_id),
        ("from dataset", version.lineage.dataset_version_id),
        ("from base", version.lineage.base_version_id),
        ("id", version.id),
        ("created", version.created_at),
        ("by", version.created_by),
        ("locked until", version.locked_until),
    )
    show_object(version, fields, as_json=as_json)
    evaluations = version.metrics.get("evaluations") or []
    if not as_json and evaluations:
        scores = read_scores(evaluations[-1])
        print_table(scores, score_columns(scores), title="Newest evaluation")
