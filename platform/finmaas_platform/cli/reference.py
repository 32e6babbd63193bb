"""Writes docs/reference/cli.md from the command tree. The same tree gives the same bytes.

python -m finmaas_platform.cli.reference [file]
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import typer

TARGET = Path("docs/reference/cli.md")
HEAD = """# The `finmaas` command

Written by `make docs` from the commands themselves; do not edit. Results go to standard output, everything about the
way there to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

Environment: `FINMAAS_HOME` (data folder), `FINMAAS_URL` and `FINMAAS_TOKEN` (another platform than this machine's),
`FINMAAS_GATEWAY_URL`, `FINMAAS_PROJECT` (tenant/project to use), `FINMAAS_KEY` (API key for `finmaas chat`).
"""


@dataclass(frozen=True)
class CommandPage:
    """One command as documentation: `path` is what is typed, without arguments."""

    path: str
    usage: str
    help: str
    examples: tuple[str, ...]
    arguments: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, str], ...]


def write_reference(target: Path = TARGET) -> None:
    """Writes the page."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(render_reference(), encoding="utf-8")


def render_reference() -> str:
    """The page as Markdown."""
    from finmaas_platform.cli.main import app

    pages = list_pages(typer.main.get_command(app))
    return "\n".join([HEAD, *(_render_page(page) for page in pages)])


def list_pages(command: Any, path: str = "finmaas") -> Iterator[CommandPage]:
    """Every command that does something, in the order of the tree."""
    children = getattr(command, "commands", None)
    if children:
        for name, child in children.items():
            yield from list_pages(child, f"{path} {name}")
        return
    text = inspect.cleandoc(command.help or "")
    paragraphs = [" ".join(block.split()) for block in text.split("\n\n")]
    examples = tuple(block.removeprefix("Example: ") for block in paragraphs if block.startswith("Example: "))
    prose = "\n\n".join(block for block in paragraphs if not block.startswith("Example: "))
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option"]
    words = [path, *(_show_argument(param) for param in arguments), *(["[OPTIONS]"] if options else [])]
    yield CommandPage(
        path=path,
        usage=" ".join(words),
        help=prose,
        examples=examples,
        arguments=tuple((_show_argument(param), _describe(param)) for param in arguments),
        options=tuple((_show_option(param), _describe(param)) for param in options),
    )


def _render_page(page: CommandPage) -> str:
    lines = [f"## {page.path}", "", page.help, "", "```console", *(f"$ {line}" for line in page.examples), "```", ""]
    lines += [f"Usage: `{page.usage}`", ""]
    for title, rows in (("Argument", page.arguments), ("Option", page.options)):
        if rows:
            lines += [f"| {title} | |", "|---|---|"]
            lines += [f"| `{name}` | {text} |" for name, text in rows]
            lines.append("")
    return "\n".join(lines)


def _show_argument(param: Any) -> str:
    name = (param.metavar or param.name).upper()
    return name if param.required else f"[{name}]"


def _show_option(param: Any) -> str:
    return ", ".join([*param.opts, *param.secondary_opts])


def _describe(param: Any) -> str:
    """The help of a parameter, with choices, default and variable."""
    parts = [(param.help or "").replace("|", "\\|")]
    if choices := _choices_of(param):
        parts.append(f"One of {', '.join(choices)}.")
    default = getattr(param.default, "value", param.default)
    is_value = isinstance(default, str | int | float) and default != ""
    if is_value and param.show_default is True and not getattr(param, "is_flag", False):
        parts.append(f"Default: `{default}`.")
    if param.envvar:
        parts.append(f"Variable: `{param.envvar}`.")
    return " ".join(part for part in parts if part)


def _choices_of(param: Any) -> list[str]:
    """The values of a parameter that takes one of a few; read from the annotation, which every typer keeps."""
    annotation = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [str(choice.value) for choice in annotation]
    return []


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
