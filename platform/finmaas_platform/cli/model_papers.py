"""`finmaas model lineage|card|materials|diff`: where a version comes from, what made it, how two of them differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from finmaas_platform.cli.model_life import RefArgument
from finmaas_platform.cli.options import DEFAULT_PROJECT, JsonOption, ProjectOption, connect
from finmaas_platform.cli.terminal import Column, make_console, print_fields, print_json, print_table, say

if TYPE_CHECKING:
    from rich.tree import Tree

    from finmaas_platform.sdk.objects import LineageGraph

LanguageOption = Annotated[Literal["en", "zh"], typer.Option("--language", "-l", help="English or Chinese.")]
DIFFERENCES = (
    Column("What", lambda row: row[0]),
    Column("Before", lambda row: row[1], fold=True),
    Column("After", lambda row: row[2], fold=True),
)
EDITIONS = (
    Column("Edition", lambda card: card.edition, right=True),
    Column("When", lambda card: card.at),
    Column("By", lambda card: card.by),
    Column("First line", lambda card: card.text.partition("\n")[0]),
)


def register(models: typer.Typer) -> None:
    """Adds the commands to `finmaas model`."""
    models.command("lineage")(show_lineage)
    models.command("card")(show_card)
    models.command("materials")(show_materials)
    models.command("diff")(diff)


def show_lineage(
    ref: RefArgument,
    project: ProjectOption = DEFAULT_PROJECT,
    direction: Annotated[
        Literal["up", "down", "both"], typer.Option("--direction", help="What it came from, what came of it, or both.")
    ] = "both",
    as_json: JsonOption = False,
) -> None:
    """Show a version's lineage as a tree: from its data up to its endpoints and what they were used for.

    Example: finmaas model lineage intents@3
    """
    with connect() as client:
        graph = client.models.papers.lineage(ref, project, direction)
    if as_json:
        print_json(graph.to_json())
        return
    console = make_console()
    for way, title in (("up", "came from"), ("down", "led to")):
        if direction in (way, "both"):
            console.print(_grow(graph, way, title))
    if graph.truncated:
        say("There is more than is shown here; --json and the REST API walk on from any node.")


def show_card(
    ref: RefArgument,
    project: ProjectOption = DEFAULT_PROJECT,
    language: LanguageOption = "en",
    write: Annotated[
        Path | None, typer.Option("--set", help="Markdown file of a new edition.", dir_okay=False, show_default=False)
    ] = None,
    editions: Annotated[bool, typer.Option("--editions", help="List the editions instead.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print a version's card as Markdown: generated, until somebody writes an edition with --set.

    Example: finmaas model card intents@3 --language zh > card.md
    """
    with connect() as client:
        if editions:
            found = list(client.models.papers.card_editions(ref, project, language))
            if as_json:
                print_json([card.to_json() for card in found])
            else:
                print_table(found, EDITIONS)
            return
        present = client.models.papers.card(ref, project, language)
        if write is not None:
            text = write.read_text(encoding="utf-8")
            present = client.models.papers.set_card(ref, text, project, language, if_match=present.edition)
            say(f"Edition {present.edition} of the card of {present.version} is written.")
    if as_json:
        print_json(present.to_json())
    elif write is None:
        typer.echo(present.text, nl=False)


def show_materials(ref: RefArgument, project: ProjectOption = DEFAULT_PROJECT, as_json: JsonOption = False) -> None:
    """Show what made a version: code, packages, data, base, parameters, seed, machine.

    Example: finmaas model materials intents@3 --json
    """
    with connect() as client:
        materials = client.models.papers.materials(ref, project)
    if as_json:
        print_json(materials)
        return
    if not materials:
        say("It was not trained here, so nothing is known of what made it.")
        return
    print_fields([(name, _tell(name, value)) for name, value in materials.items()])


def diff(
    old: RefArgument,
    new: Annotated[str, typer.Argument(help="The version to compare it with.", metavar="OTHER")],
    project: ProjectOption = DEFAULT_PROJECT,
    as_json: JsonOption = False,
) -> None:
    """Show what differs between two versions: files, lineage, state, scores.

    Example: finmaas model diff intents@production intents@4
    """
    from finmaas_platform.sdk.model_papers import diff_versions

    with connect() as client:
        rows = diff_versions(client.models.version(old, project), client.models.version(new, project))
    if as_json:
        print_json([{"what": what, "before": before, "after": after} for what, before, after in rows])
    elif rows:
        print_table(rows, DIFFERENCES)
    else:
        say("They are the same, but for their names.")


def _grow(graph: LineageGraph, way: str, title: str) -> Tree:
    """One direction of the graph as a tree; what was shown already is not opened again."""
    from rich.tree import Tree

    nodes = {node.key: node for node in graph.nodes}
    steps: dict[str, list[str]] = {}
    for edge in graph.edges:
        near, far = (edge.result, edge.origin) if way == "up" else (edge.origin, edge.result)
        steps.setdefault(near, []).append(far)
    tree = Tree(f"[bold]{nodes[graph.root].ref}[/bold] {title}")
    seen: set[str] = set()

    def add(branch: Tree, key: str) -> None:
        for far in steps.get(key, ()):
            node = nodes[far]
            note = f" [dim]({node.note})[/dim]" if node.note else ""
            twig = branch.add(f"[cyan]{node.kind.replace('_', ' ')}[/cyan] {node.ref}{note}")
            if far not in seen:
                seen.add(far)
                add(twig, far)

    add(tree, graph.root)
    if not tree.children:
        tree.add("[dim]nothing[/dim]")
    return tree


def _tell(name: str, value: Any) -> str:
    if name == "packages" and isinstance(value, dict):
        return f"{len(value)}, e.g. " + ", ".join(f"{one} {value[one]}" for one in ("torch", "ray") if one in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={one}" for key, one in value.items())
    return str(value)
