"""`finmaas route`: where an endpoint's requests go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finmaas_platform.cli.options import (
    DEFAULT_PROJECT,
    SERVING,
    JsonOption,
    ProjectOption,
    complete_endpoint,
    connect,
)
from finmaas_platform.cli.terminal import Column, print_json, say, show_items, show_object

if TYPE_CHECKING:
    from finmaas_platform.sdk.objects import TrafficPlan

app = typer.Typer(no_args_is_help=True, help="Traffic: split, canary, shadow, fallbacks and sharing of an endpoint.")
NameArgument = Annotated[
    str, typer.Argument(help="Name of the endpoint.", metavar="ENDPOINT", autocompletion=complete_endpoint)
]
COLUMNS = (
    Column("Endpoint", lambda t: t.endpoint),
    Column("Goes to", lambda t: tell_split(t.plan), fold=True),
    Column("Canary", lambda t: tell_canary(t.plan)),
    Column("Shadow", lambda t: tell_shadow(t.plan)),
    Column("Fallbacks", lambda t: tell_fallbacks(t.plan), fold=True),
)


def register(root: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    root.add_typer(app, name="route", rich_help_panel=SERVING)


@app.command("list")
def list_plans(as_json: JsonOption = False) -> None:
    """List the traffic plans of your endpoints.

    Example: finmaas route list
    """
    with connect() as client:
        empty = "No traffic plan: every endpoint answers for itself. finmaas route set <endpoint> --to …"
        show_items(client.traffic.list(), COLUMNS, as_json=as_json, empty=empty)


@app.command("show")
def show_plan(name: NameArgument, project: ProjectOption = DEFAULT_PROJECT, as_json: JsonOption = False) -> None:
    """Show where an endpoint's requests go, and how its last canary ended.

    Example: finmaas route show intents
    """
    with connect() as client:
        _show(client.traffic.get(name, project), as_json)


@app.command("set")
def set_plan(
    name: NameArgument,
    project: ProjectOption = DEFAULT_PROJECT,
    to: Annotated[
        list[str] | None,
        typer.Option("--to", help="Target and weight, as intents=90; repeat for more.", show_default=False),
    ] = None,
    sticky: Annotated[
        bool | None, typer.Option("--sticky/--no-sticky", help="Sessions keep their target.", show_default=False)
    ] = None,
    shadow: Annotated[
        str | None,
        typer.Option("--shadow", help="Gets copies: its name and per cent, as intents-v3=10.", show_default=False),
    ] = None,
    fallback: Annotated[
        list[str] | None,
        typer.Option(
            "--fallback",
            help="Endpoint, or provider:model, to ask when the others fail; repeat in order.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="The whole plan, as JSON or YAML, instead.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Set where an endpoint's requests go; what is not given stays. Gateways follow within a second.

    Example: finmaas route set intents --to intents=90 --to intents-v2=10 --fallback intents-small
    """
    with connect() as client:
        if file is not None:
            _show(client.traffic.set(name, _read(file), project), as_json)
            return
        plan, version = _present(client, name, project)
        change = {
            "split": None if to is None else [_share(text) for text in to],
            "sticky": sticky,
            "shadow": None if shadow is None else _shadow(shadow),
            "fallbacks": None if fallback is None else [_fallback(text) for text in fallback],
        }
        plan |= {key: value for key, value in change.items() if value is not None}
        _show(client.traffic.set(name, plan, project, if_match=version), as_json)


@app.command("canary")
def start_canary(
    name: NameArgument,
    canary: Annotated[str, typer.Argument(help="Endpoint that is tried.", autocompletion=complete_endpoint)],
    project: ProjectOption = DEFAULT_PROJECT,
    percent: Annotated[float, typer.Option("--percent", min=0.001, max=100, help="Share of all requests.")] = 5.0,
    max_error_rate: Annotated[
        float, typer.Option("--max-error-rate", min=0, max=1, help="It is given up when more fail.")
    ] = 0.05,
    max_latency_ms: Annotated[
        float | None,
        typer.Option("--max-latency-ms", help="… or the slowest twentieth takes longer.", show_default=False),
    ] = None,
    min_requests: Annotated[int, typer.Option("--min-requests", min=1, help="Judged after so many.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Try a new version on a share of the requests; it is rolled back by itself when it breaks a bound.

    Example: finmaas route canary intents intents-v2 --percent 5 --max-latency-ms 800
    """
    with connect() as client:
        plan, version = _present(client, name, project)
        plan["canary"] = {
            "endpoint": canary,
            "percent": percent,
            "max_error_rate": max_error_rate,
            "max_latency_ms": max_latency_ms,
            "min_requests": min_requests,
        }
        _show(client.traffic.set(name, plan, project, if_match=version), as_json)


@app.command("promote")
def promote(name: NameArgument, project: ProjectOption = DEFAULT_PROJECT, as_json: JsonOption = False) -> None:
    """Send all requests to what is the canary now.

    Example: finmaas route promote intents
    """
    with connect() as client:
        _show(client.traffic.promote(name, project), as_json)


@app.command("rollback")
def roll_back(name: NameArgument, project: ProjectOption = DEFAULT_PROJECT, as_json: JsonOption = False) -> None:
    """Give the canary up.

    Example: finmaas route rollback intents
    """
    with connect() as client:
        _show(client.traffic.roll_back(name, project), as_json)


@app.command("delete")
def delete_plan(name: NameArgument, project: ProjectOption = DEFAULT_PROJECT, as_json: JsonOption = False) -> None:
    """Take the plan away: all requests go to the endpoint itself again.

    Example: finmaas route delete intents
    """
    with connect() as client:
        client.traffic.remove(name, project)
    if as_json:
        print_json({"deleted": name})
        return
    say(f"All requests to {name} go to itself again.")


def tell_split(plan: dict[str, Any]) -> str:
    """The split in per cent."""
    total = sum(part["weight"] for part in plan["split"])
    return ", ".join(f"{part['endpoint']} {100 * part['weight'] / total:.4g} %" for part in plan["split"]) or "itself"


def tell_canary(plan: dict[str, Any]) -> str | None:
    """The canary and its share."""
    part = plan["canary"]
    return None if part is None else f"{part['endpoint']} {part['percent']:g} %"


def tell_shadow(plan: dict[str, Any]) -> str | None:
    """The shadow and its share."""
    part = plan["shadow"]
    return None if part is None else f"{part['endpoint']} {part['percent']:g} %"


def tell_fallbacks(plan: dict[str, Any]) -> str | None:
    """The fallbacks in their order."""
    parts = [part["endpoint"] or f"{part['provider']}:{part['model']} (outside, masked)" for part in plan["fallbacks"]]
    return ", then ".join(parts) or None


def _tell_bounds(plan: dict[str, Any]) -> str | None:
    part = plan["canary"]
    if part is None:
        return None
    slow = "" if part["max_latency_ms"] is None else f", or a twentieth take over {part['max_latency_ms']:g} ms"
    return f"more than {part['max_error_rate']:.3g} of {part['min_requests']} or more fail{slow}"


def _tell_sharing(plan: dict[str, Any]) -> str:
    part = plan["sharing"]
    limit = "the engine's" if part["concurrency"] is None else str(part["concurrency"])
    reserved = "".join(f"; {one['slots']} kept for {one['tenant']}" for one in part["reserved"])
    return f"{limit} requests at once a replica, {part['queue']} wait up to {part['wait_s']:g} s{reserved}"


def _show(found: TrafficPlan, as_json: bool) -> None:
    plan, ended = found.plan, found.ended
    how = None if ended is None else f"{ended['endpoint']} {ended['verdict'].replace('_', ' ')}: {ended['reason']}"
    fields = (
        ("endpoint", found.endpoint),
        ("goes to", tell_split(plan)),
        ("sessions", "keep their target" if plan["sticky"] else "are not kept together"),
        ("canary", tell_canary(plan)),
        ("given up when", _tell_bounds(plan)),
        ("last canary", how),
        ("shadow", tell_shadow(plan)),
        ("fallbacks", tell_fallbacks(plan)),
        ("sharing", _tell_sharing(plan)),
        ("set", found.updated_at),
    )
    show_object(found, fields, as_json=as_json)


def _present(client: Any, name: str, project: str) -> tuple[dict[str, Any], int | None]:
    from finmaas_core.errors import NotFound

    try:
        found = client.traffic.get(name, project)
    except NotFound:
        return {}, None
    return dict(found.plan), found.version


def _share(text: str) -> dict[str, Any]:
    name, _, weight = text.partition("=")
    try:
        return {"endpoint": name, "weight": float(weight)}
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no target and weight; write intents=90") from None


def _shadow(text: str) -> dict[str, Any]:
    name, _, percent = text.partition("=")
    try:
        return {"endpoint": name, "percent": float(percent or 100)}
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no target and per cent; write intents-v3=10") from None


def _fallback(text: str) -> dict[str, Any]:
    provider, found, model = text.partition(":")
    return {"provider": provider, "model": model} if found else {"endpoint": text}


def _read(file: Path) -> Any:
    import yaml  # type: ignore[import-untyped]

    text = file.read_text(encoding="utf-8")
    return json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
