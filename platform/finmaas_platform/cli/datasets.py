"""`finmaas dataset`: importing rows as immutable versions, and looking at them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finmaas_platform.cli.options import (
    DATA,
    DEFAULT_PROJECT,
    HUB,
    AnyProjectOption,
    EndpointOption,
    JsonOption,
    ProjectOption,
    RevisionOption,
    complete_dataset,
    connect,
    open_hub,
)
from finmaas_platform.cli.terminal import (
    Column,
    format_bytes,
    print_fields,
    print_json,
    print_table,
    say,
    show_items,
    show_object,
)

if TYPE_CHECKING:
    from finmaas_platform.sdk.objects import DatasetVersion


class Shape(StrEnum):
    """What a row is."""

    CLASSIFICATION = "classification"
    INSTRUCTION = "instruction"
    CHAT = "chat"
    PREFERENCE = "preference"


class Split(StrEnum):
    """Which part of the rows."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class WithoutConsent(StrEnum):
    """What happens to rows without consent for the purpose."""

    REFUSE = "refuse"
    DROP = "drop"


app = typer.Typer(no_args_is_help=True, help="Datasets: rows as immutable versions.")
RefArgument = Annotated[
    str, typer.Argument(help="The dataset, as name or name@3.", metavar="DATASET", autocompletion=complete_dataset)
]
COLUMNS = (
    Column("Name", lambda d: d.name),
    Column("Project", lambda d: d.project),
    Column("Newest", lambda d: f"@{d.latest_version}" if d.latest_version else None, right=True),
    Column("Created", lambda d: d.created_at),
)
VERSIONS = (
    Column("Version", lambda v: v.ref),
    Column("Shape", lambda v: v.shape),
    Column("Rows", lambda v: v.rows, right=True),
    Column("Train", lambda v: v.splits.get("train", 0), right=True),
    Column("Validation", lambda v: v.splits.get("validation", 0), right=True),
    Column("Test", lambda v: v.splits.get("test", 0), right=True),
    Column("By", lambda v: v.created_by),
    Column("Created", lambda v: v.created_at),
)


def register(root: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    import finmaas_platform.cli.dataset_rows  # noqa: F401  its commands join the same group

    root.add_typer(app, name="dataset", rich_help_panel=DATA)


@app.command("import")
def import_dataset(
    name: Annotated[str, typer.Option("--name", "-n", help="Dataset that this becomes a version of.")],
    file: Annotated[
        Path | None, typer.Argument(help="A .csv, .jsonl, .xlsx or .parquet file.", exists=True, dir_okay=False)
    ] = None,
    hub: Annotated[
        str | None, typer.Option("--hub", help="Instead of a file: a dataset repository, e.g. acme/questions.")
    ] = None,
    path: Annotated[
        str | None, typer.Option("--path", help="The file or folder of the repository, where there are several.")
    ] = None,
    endpoint: EndpointOption = HUB,
    revision: RevisionOption = "main",
    project: ProjectOption = DEFAULT_PROJECT,
    shape: Annotated[
        Shape | None, typer.Option("--shape", help="What a row is (default: told by the columns).", show_default=False)
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="Column with the text.", show_default=False)] = None,
    label: Annotated[str | None, typer.Option("--label", help="Column with the label.", show_default=False)] = None,
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            help="Column whose equal values stay in one split (default: the text).",
            show_default=False,
        ),
    ] = None,
    splits: Annotated[
        str | None,
        typer.Option("--splits", help="Shares of train, validation and test, e.g. 0.8,0.1,0.1.", show_default=False),
    ] = None,
    id_column: Annotated[
        str | None, typer.Option("--id", help="Column with the row's own id, to find rows by.", show_default=False)
    ] = None,
    consent: Annotated[
        str | None,
        typer.Option("--consent", help="Column with consent: yes, no, or purposes.", show_default=False),
    ] = None,
    retain_until: Annotated[
        str | None, typer.Option("--retain-until", help="Column with the last day of use.", show_default=False)
    ] = None,
    purpose: Annotated[str, typer.Option("--purpose", help="What consent is needed for.")] = "training",
    without_consent: Annotated[
        WithoutConsent, typer.Option("--without-consent", help="Refuse the file, or drop rows without consent.")
    ] = WithoutConsent.REFUSE,
    as_json: JsonOption = False,
) -> None:
    """Import a file, or a repository of a Hub, as a new version. Equal content gives the version that is there.

    HF_TOKEN, if it is set, is sent to the Hub, and nowhere else.

    Example: finmaas dataset import tickets.csv --name intents --text text --label label
    Example: finmaas dataset import --hub acme/questions --endpoint https://mirror.example --name questions
    """
    from finmaas_platform.cli.progress import show_bytes

    if (file is None) == (hub is None):
        raise typer.BadParameter("give a file, or --hub with a repository")
    read_as: dict[str, Any] = {
        "shape": shape,
        "text": text,
        "label": label,
        "group": group,
        "splits": splits,
        "id_column": id_column,
        "consent": consent,
        "retain_until": retain_until,
        "purpose": purpose,
        "without_consent": without_consent,
    }
    with connect() as client, show_bytes(f"Importing {hub or file}") as on_progress:
        if file is not None:
            version = client.datasets.import_file(file, name, project, on_progress=on_progress, **read_as)
        else:
            assert hub is not None
            source = open_hub(endpoint, hub, revision, "dataset")
            version = client.datasets.import_from_hub(
                source, name, project, path=path, on_progress=on_progress, **read_as
            )
    show_version(version, as_json)
    if not as_json:
        say(f"Next: finmaas train <base> {version.dataset}@{version.version} --output <model>")


PUSH_HELP = """Push a file as a new version; `import` by another name. Killed, it goes on when it is run again.

Example: finmaas dataset push tickets.csv --name intents --text text --label label
"""
app.command("push", help=PUSH_HELP)(import_dataset)


@app.command("pull")
def pull_dataset(
    ref: RefArgument,
    folder: Annotated[Path, typer.Argument(help="Where its files go; made if missing.", file_okay=False)],
    project: ProjectOption = DEFAULT_PROJECT,
    as_json: JsonOption = False,
) -> None:
    """Fetch a version's files (Parquet), each checked by its digest. What is there already is not fetched again.

    Example: finmaas dataset pull intents@2 ./intents
    """
    from finmaas_platform.cli.progress import show_bytes

    with connect() as client, show_bytes(f"Pulling {ref}") as on_bytes:
        version = client.datasets.download(ref, folder, project, on_progress=on_bytes)
    if as_json:
        show_version(version, as_json)
    else:
        say(f"{folder} holds {version.ref}: {format_bytes(version.size_bytes)} in {len(version.files)} files.")


@app.command("list")
def list_datasets(project: AnyProjectOption = None, as_json: JsonOption = False) -> None:
    """List datasets.

    Example: finmaas dataset list
    """
    with connect() as client:
        show_items(
            client.datasets.list(project),
            COLUMNS,
            as_json=as_json,
            empty="No dataset yet: finmaas dataset import <file> --name <name>",
        )


@app.command("show")
def show_dataset(
    ref: RefArgument,
    project: ProjectOption = DEFAULT_PROJECT,
    report: Annotated[
        bool, typer.Option("--report", help="What the import found: duplicates, leakage, personal data.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show one version: rows, splits, statistics. Without a number the newest.

    Example: finmaas dataset show intents@1 --report
    """
    from finmaas_platform.cli.dataset_report import show_report

    with connect() as client:
        if report:
            show_report(client.datasets.report(ref, project), as_json)
        else:
            show_version(client.datasets.version(ref, project), as_json)


@app.command("versions")
def list_versions(ref: RefArgument, project: ProjectOption = DEFAULT_PROJECT, as_json: JsonOption = False) -> None:
    """List the versions of a dataset.

    Example: finmaas dataset versions intents
    """
    with connect() as client:
        show_items(client.datasets.versions(ref, project), VERSIONS, as_json=as_json, empty="No version yet.")


@app.command("rows")
def show_rows(
    ref: RefArgument,
    project: ProjectOption = DEFAULT_PROJECT,
    split: Annotated[Split, typer.Option("--split", help="Which part of the rows.")] = Split.TRAIN,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most so many.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Show the first rows of a split.

    Example: finmaas dataset rows intents@1 --split test -n 5
    """
    with connect() as client:
        rows = client.datasets.rows(ref, project, split=split, limit=limit)
    if as_json:
        print_json(rows)
        return
    if not rows:
        say(f"The {split} split of {ref} is empty.")
        return
    names = [name for name in rows[0] if not name.startswith("_")]
    print_table(rows, [Column(name, _cell_of(name), fold=True) for name in names])


def _cell_of(name: str) -> Any:
    def cell(row: dict[str, Any]) -> str:
        value = row.get(name)
        if isinstance(value, list):
            return "\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in value if isinstance(turn, dict))
        return "" if value is None else str(value)

    return cell


def show_version(version: DatasetVersion, as_json: bool) -> None:
    splits = " · ".join(f"{name} {count:,}" for name, count in version.splits.items())
    fields = (
        ("version", version.ref),
        ("shape", version.shape),
        ("rows", version.rows),
        ("splits", splits),
        ("state", version.state),
        ("locked until", version.locked_until),
        ("digest", version.digest[:16]),
        ("id", version.id),
        ("created", version.created_at),
        ("by", version.created_by),
    )
    show_object(version, fields, as_json=as_json)
    if not as_json:
        shown = {name: value for name, value in version.stats.items() if name not in ("rows", "splits", "warnings")}
        print_fields([(name.replace("_", " "), _describe_stat(value)) for name, value in shown.items()])
        for warning in version.stats.get("warnings", ()):
            say(f"Warning: {warning}")


def _describe_stat(value: Any) -> str:
    """A statistic in one line; of long tables the first entries and how many more there are."""
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    if not isinstance(value, dict):
        return f"{value:,}" if isinstance(value, int) else str(value)
    shown = [f"{key} {_describe_stat(inner)}" for key, inner in list(value.items())[:6]]
    more = f" … {len(value) - 6} more" if len(value) > 6 else ""
    return " · ".join(shown) + more
