"""`finmaas project`: use cases inside a tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from finmaas_platform.cli.options import ADMINISTRATION, JsonOption, connect
from finmaas_platform.cli.terminal import Column, show_items, show_object

if TYPE_CHECKING:
    from finmaas_platform.sdk.objects import Project

app = typer.Typer(no_args_is_help=True, help="Use cases inside a tenant: owners of datasets, models and endpoints.")
RefArgument = Annotated[str, typer.Argument(help="The project, as tenant/project.", metavar="TENANT/PROJECT")]
COLUMNS = (
    Column("Project", lambda p: p.ref),
    Column("Display name", lambda p: p.display_name),
    Column("Created", lambda p: p.created_at),
)


def register(root: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    root.add_typer(app, name="project", rich_help_panel=ADMINISTRATION)


@app.command("list")
def list_projects(
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only of this tenant.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """List the projects you may see.

    Example: finmaas project list --tenant retail
    """
    with connect() as client:
        show_items(
            client.projects.list(tenant),
            COLUMNS,
            as_json=as_json,
            empty="No project yet: finmaas project create <tenant>/<name>",
        )


@app.command("create")
def create_project(
    ref: RefArgument,
    display_name: Annotated[str, typer.Option("--display-name", help="Name for people.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Make a project.

    Example: finmaas project create retail/service --display-name "Customer service"
    """
    tenant, name = split_project(ref)
    with connect() as client:
        _show(client.projects.create(tenant, name, display_name), as_json)


@app.command("show")
def show_project(ref: RefArgument, as_json: JsonOption = False) -> None:
    """Show one project.

    Example: finmaas project show default/default
    """
    tenant, name = split_project(ref)
    with connect() as client:
        _show(client.projects.get(f"{tenant}/{name}"), as_json)


@app.command("set")
def set_up_project(
    ref: RefArgument,
    cost_centre: Annotated[
        str, typer.Option("--cost-centre", help="Where its usage is booked; empty: the tenant's.", show_default=False)
    ],
    as_json: JsonOption = False,
) -> None:
    """Set a project's cost centre.

    Example: finmaas project set retail/service --cost-centre 4711
    """
    tenant, name = split_project(ref)
    with connect() as client:
        _show(client.projects.update(f"{tenant}/{name}", cost_centre=cost_centre), as_json)


def split_project(ref: str) -> tuple[str, str]:
    """`tenant/project` as its two parts; a usage error for anything else."""
    tenant, slash, name = ref.partition("/")
    if not slash or not tenant or not name or "/" in name:
        raise typer.BadParameter(f"{ref!r} is not a project; write tenant/project")
    return tenant, name


def _show(project: Project, as_json: bool) -> None:
    fields = (
        ("project", project.ref),
        ("display name", project.display_name),
        ("cost centre", project.cost_centre or "-"),
        ("id", project.id),
        ("created", project.created_at),
    )
    show_object(project, fields, as_json=as_json)
