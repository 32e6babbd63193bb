"""`finmaas dataset release|diff|trace|forget`: what happens to versions and rows after the import."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finmaas_platform.cli.datasets import RefArgument, app
from finmaas_platform.cli.options import DEFAULT_PROJECT, JsonOption, ProjectOption, connect
from finmaas_platform.cli.terminal import Column, print_fields, print_json, print_table, say, show_items

if TYPE_CHECKING:
    from finmaas_platform.sdk.objects import DeletionRequest, RowTrace


class Accepted(StrEnum):
    """What of a report can be accepted."""

    PRIVACY = "privacy"
    LEAKAGE = "leakage"
    EXPIRED = "expired"


TextOption = Annotated[
    str | None, typer.Option("--text", help="The row's question, as it was imported.", show_default=False)
]
RowIdOption = Annotated[
    str | None, typer.Option("--row-id", help="The row's own id (column `--id` of the import).", show_default=False)
]
RequestArgument = Annotated[str, typer.Argument(help="The deletion request.", metavar="REQUEST")]
VERSIONS = (
    Column("Version", lambda v: v["ref"]),
    Column("Rows", lambda v: v["rows"], right=True),
    Column("Splits", lambda v: ", ".join(v["splits"])),
    Column("Newest", lambda v: "yes" if v["is_latest"] else ""),
)
JOBS = (
    Column("Job", lambda j: j["id"]),
    Column("Kind", lambda j: j["kind"]),
    Column("State", lambda j: j["state"]),
)
MODELS = (Column("Model", lambda m: m["ref"]), Column("Because", lambda m: m["because"]))
ENDPOINTS = (
    Column("Endpoint", lambda e: e["name"]),
    Column("Serves", lambda e: e["model"]),
    Column("State", lambda e: e["state"]),
)
REQUESTS = (
    Column("Request", lambda r: r.id),
    Column("State", lambda r: r.state),
    Column("Versions", lambda r: len(r.found.versions), right=True),
    Column("Retrain", lambda r: len(r.retrain), right=True),
    Column("Reason", lambda r: r.reason, fold=True),
    Column("By", lambda r: r.created_by),
    Column("Created", lambda r: r.created_at),
)


@app.command("release")
def release_version(
    ref: RefArgument,
    project: ProjectOption = DEFAULT_PROJECT,
    accept: Annotated[
        list[Accepted] | None,
        typer.Option("--accept", help="Take a finding of the report on you; may be repeated.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Release a version: its report holds nothing against it, or what it holds is accepted by name.

    Example: finmaas dataset release intents@2 --accept privacy
    """
    with connect() as client:
        version = client.datasets.release(ref, project, accept=[str(one) for one in accept or ()])
    if as_json:
        print_json(version.to_json())
    else:
        say(f"{version.ref} is {version.state}, by {version.released_by}.")


@app.command("diff")
def diff_versions(
    before: RefArgument,
    after: Annotated[str, typer.Argument(help="The later version.", metavar="DATASET")],
    project: ProjectOption = DEFAULT_PROJECT,
    sample: Annotated[int, typer.Option("--sample", min=0, max=20, help="Rows of each kind to show.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Compare two versions: rows added, removed, changed, moved to another split, and the schema.

    Example: finmaas dataset diff intents@1 intents@2
    """
    with connect() as client:
        found = client.datasets.diff(before, after, project, sample=sample)
    if as_json:
        print_json(found.to_json())
        return
    told = [(name, f"{count:,}") for name, count in found.counts.items()]
    print_fields([("from", found.before), ("to", found.after), ("rows compared by", found.by), *told])
    for kind, names in (found.columns or {}).items():
        if names:
            print_fields([(f"columns {kind}", ", ".join(map(_name_of, names)))])
    rows = [("added", row) for row in found.added] + [("removed", row) for row in found.removed]
    rows += [pair for one in found.changed for pair in (("before", one["before"]), ("after", one["after"]))]
    if rows:
        columns = (Column("", lambda r: r[0]), Column("Row", lambda r: _row_of(r[1]), fold=True))
        print_table(rows, columns, title=f"At most {sample} rows of each kind")


@app.command("trace")
def trace_row(text: TextOption = None, row_id: RowIdOption = None, as_json: JsonOption = False) -> None:
    """Find out which versions hold a row, and which jobs, models and endpoints learned from it.

    Example: finmaas dataset trace --text "where is my card"
    """
    with connect() as client:
        found = client.datasets.trace(text=text, row_id=row_id)
    if as_json:
        print_json(found.to_json())
        return
    if not found.versions:
        say("No version in your sight holds this row.")
        return
    _print_trace(found)


@app.command("forget")
def forget_row(
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")],
    text: TextOption = None,
    row_id: RowIdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask that a row be forgotten: makes versions without it, and says which models must be retrained.

    Example: finmaas dataset forget --row-id C-1024 --reason "customer withdrew consent"
    """
    with connect() as client:
        request = client.datasets.forget(reason=reason, text=text, row_id=row_id)
    _show_request(request, as_json)
    if not as_json:
        say(f"Next, somebody else: finmaas dataset forget-approve {request.id}")


@app.command("forget-list")
def list_requests(as_json: JsonOption = False) -> None:
    """List deletion requests.

    Example: finmaas dataset forget-list
    """
    with connect() as client:
        show_items(client.datasets.deletion_requests(), REQUESTS, as_json=as_json, empty="No row was to be forgotten.")


@app.command("forget-show")
def show_request(request: RequestArgument, as_json: JsonOption = False) -> None:
    """Show a deletion request.

    Example: finmaas dataset forget-show del_06f2
    """
    with connect() as client:
        _show_request(client.datasets.deletion_request(request), as_json)


@app.command("forget-approve")
def approve_request(request: RequestArgument, as_json: JsonOption = False) -> None:
    """Approve the purge, as somebody else than who asked.

    Example: finmaas dataset forget-approve del_06f2
    """
    with connect() as client:
        _show_request(client.datasets.approve_deletion(request), as_json)


@app.command("forget-purge")
def purge_request(request: RequestArgument, as_json: JsonOption = False) -> None:
    """Take the rows of the versions that hold the row out of the registry. Needs the approval.

    Example: finmaas dataset forget-purge del_06f2
    """
    with connect() as client:
        _show_request(client.datasets.purge_deletion(request), as_json)


def _show_request(request: DeletionRequest, as_json: bool) -> None:
    if as_json:
        print_json(request.to_json())
        return
    made = ", ".join(one["ref"] or f"none after {one['of']} ({one['why']})" for one in request.made)
    print_fields(
        [
            ("request", request.id),
            ("state", request.state),
            ("reason", request.reason),
            ("asked by", request.created_by),
            ("approved by", request.approved_by),
            ("versions without it", made or "none needed"),
            ("to be retrained", ", ".join(request.retrain) or "no model learned from it"),
        ]
    )
    _print_trace(request.found)


def _print_trace(found: RowTrace) -> None:
    for title, items, columns in (
        ("Versions that hold it", found.versions, VERSIONS),
        ("Jobs that read these", found.jobs, JOBS),
        ("Models", found.models, MODELS),
        ("Endpoints", found.endpoints, ENDPOINTS),
    ):
        if items:
            print_table(items, columns, title=title)


def _name_of(column: Any) -> str:
    return column if isinstance(column, str) else f"{column['name']} ({column['before']} → {column['after']})"


def _row_of(row: dict[str, Any]) -> str:
    return " · ".join(f"{name}: {value}" for name, value in row.items() if name not in ("_group", "_row"))
