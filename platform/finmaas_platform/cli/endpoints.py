"""`finmaas deploy`, `undeploy` and `endpoint`: model versions under a served name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from finmaas_platform.cli.options import (
    DEFAULT_PROJECT,
    SERVING,
    AnyProjectOption,
    JsonOption,
    ProjectOption,
    WaitOption,
    complete_endpoint,
    complete_model,
    connect,
)
from finmaas_platform.cli.terminal import Column, print_json, say, show_items, show_object

if TYPE_CHECKING:
    from finmaas_platform.sdk.client import Client
    from finmaas_platform.sdk.objects import Endpoint

app = typer.Typer(no_args_is_help=True, help="Endpoints: served names behind the gateway.")
NameArgument = Annotated[
    str, typer.Argument(help="Name of the endpoint.", metavar="ENDPOINT", autocompletion=complete_endpoint)
]
COLUMNS = (
    Column("Name", lambda e: e.name),
    Column("Project", lambda e: e.project),
    Column("Model", lambda e: e.model_version.ref),
    Column("State", lambda e: e.state),
    Column("Replicas", lambda e: f"{e.ready_replicas}/{e.replicas}", right=True),
    Column("Reason", lambda e: e.reason, fold=True),
)


def register(root: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    root.command("deploy", rich_help_panel=SERVING)(deploy)
    root.command("undeploy", rich_help_panel=SERVING)(undeploy)
    root.add_typer(app, name="endpoint", rich_help_panel=SERVING)


def deploy(
    model: Annotated[
        str,
        typer.Argument(help="Model version to serve, as name, name@3 or name@alias.", autocompletion=complete_model),
    ],
    name: Annotated[str, typer.Option("--name", "-n", help="Name that applications call it by.")],
    project: ProjectOption = DEFAULT_PROJECT,
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="How many engines share the load.")] = 1,
    max_model_len: Annotated[
        int | None,
        typer.Option(
            "--max-model-len", min=16, help="Tokens of prompt and answer (default: the model's).", show_default=False
        ),
    ] = None,
    production: Annotated[
        bool, typer.Option("--production", help="Serve approved versions only, now and later.")
    ] = False,
    wait: WaitOption = True,
    as_json: JsonOption = False,
) -> None:
    """Serve a model version under a name, and wait until it answers.

    Example: finmaas deploy intents@1 --name intents
    """
    engine: dict[str, Any] = {} if max_model_len is None else {"max_model_len": max_model_len}
    with connect() as client:
        endpoint = client.endpoints.deploy(
            name, model, project, replicas=replicas, engine=engine, production=production
        )
        _finish(client, endpoint, wait=wait, as_json=as_json)


def undeploy(name: NameArgument, project: ProjectOption = DEFAULT_PROJECT, as_json: JsonOption = False) -> None:
    """Stop serving and remove an endpoint; the model version stays.

    Example: finmaas undeploy intents
    """
    with connect() as client:
        client.endpoints.delete(name, project)
    if as_json:
        print_json({"deleted": name})
        return
    say(f"{name} is no longer served.")


@app.command("list")
def list_endpoints(project: AnyProjectOption = None, as_json: JsonOption = False) -> None:
    """List endpoints and their state.

    Example: finmaas endpoint list
    """
    with connect() as client:
        show_items(
            client.endpoints.list(project),
            COLUMNS,
            as_json=as_json,
            empty="No endpoint yet: finmaas deploy <model> --name <endpoint>",
        )


@app.command("show")
def show_endpoint(name: NameArgument, project: ProjectOption = DEFAULT_PROJECT, as_json: JsonOption = False) -> None:
    """Show an endpoint: state and reason, model version, how to call it.

    Example: finmaas endpoint show intents
    """
    with connect() as client:
        _show(client, client.endpoints.get(name, project), as_json=as_json)


@app.command("wait")
def wait_endpoint(name: NameArgument, project: ProjectOption = DEFAULT_PROJECT, as_json: JsonOption = False) -> None:
    """Wait until an endpoint answers.

    Example: finmaas endpoint wait intents
    """
    with connect() as client:
        _finish(client, client.endpoints.get(name, project), wait=True, as_json=as_json)


@app.command("update")
def update_endpoint(
    name: NameArgument,
    project: ProjectOption = DEFAULT_PROJECT,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Model version to serve.", autocompletion=complete_model, show_default=False),
    ] = None,
    replicas: Annotated[
        int | None, typer.Option("--replicas", min=1, help="How many engines share the load.", show_default=False)
    ] = None,
    production: Annotated[
        bool | None,
        typer.Option("--production/--no-production", help="Serve approved versions only.", show_default=False),
    ] = None,
    wait: WaitOption = True,
    as_json: JsonOption = False,
) -> None:
    """Change the model version, the number of replicas, or whether it is for production.

    Example: finmaas endpoint update intents --model intents@2
    """
    if model is None and replicas is None and production is None:
        raise typer.BadParameter("name what to change: --model, --replicas or --production")
    with connect() as client:
        present = client.endpoints.get(name, project)
        endpoint = client.endpoints.update(
            name, project, model=model, replicas=replicas, production=production, if_match=present.version
        )
        _finish(client, endpoint, wait=wait, as_json=as_json)


@app.command("delete")
def delete_endpoint(name: NameArgument, project: ProjectOption = DEFAULT_PROJECT, as_json: JsonOption = False) -> None:
    """Stop serving and remove an endpoint; the same as `finmaas undeploy`.

    Example: finmaas endpoint delete intents
    """
    undeploy(name, project, as_json)


def _finish(client: Client, endpoint: Endpoint, *, wait: bool, as_json: bool) -> None:
    if wait:
        from finmaas_platform.cli.progress import show_endpoint as show_progress

        with show_progress() as on_update:
            endpoint = client.endpoints.wait_ready(endpoint.name, endpoint.project, on_update)
    _show(client, endpoint, as_json=as_json)
    if not as_json and endpoint.state == "ready":
        say(f'Next: finmaas chat {endpoint.name} "hello", finmaas key create <name> --model {endpoint.name}')


def _show(client: Client, endpoint: Endpoint, *, as_json: bool) -> None:
    fields = (
        ("endpoint", endpoint.ref),
        ("state", endpoint.state),
        ("reason", endpoint.reason),
        ("model version", endpoint.model_version.ref),
        ("production", "yes: approved versions only" if endpoint.production else None),
        ("replicas", f"{endpoint.ready_replicas} of {endpoint.replicas} ready"),
        ("engine", ", ".join(f"{name}={value}" for name, value in endpoint.engine.items())),
        ("base_url", None if as_json else f"{client.gateway_url}/v1"),
        ("model", endpoint.name),
        ("id", endpoint.id),
        ("created", endpoint.created_at),
    )
    show_object(endpoint, fields, as_json=as_json)
