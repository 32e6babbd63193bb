"""What the commands print with: consoles, tables, JSON, words for times and sizes. No command lives here.

Results go to stdout, everything about the way there to stderr, so that a pipe gets results only. Where stderr is no
terminal, progress is plain lines without control codes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from finmaas_platform.sdk.objects import ApiObject

PIPE_WIDTH = 160
"""Columns where there is no terminal to ask; tables in a pipe should not be cut."""
STATE_COLOURS = {
    "ready": "green",
    "succeeded": "green",
    "active": "green",
    "running": "cyan",
    "starting": "yellow",
    "pending": "yellow",
    "admitted": "yellow",
    "queued": "yellow",
    "candidate": "yellow",
    "validated": "cyan",
    "approved": "green",
    "retired": "dim",
    "failed": "red",
    "revoked": "red",
    "frozen": "red",
    "closed": "red",
    "disabled": "red",
    "expired": "red",
}


@dataclass(frozen=True)
class Column:
    """One column of a table: its heading, and the cell of an item."""

    heading: str
    cell: Callable[[Any], Any]
    right: bool = False
    fold: bool = False  # long text may take several lines; else it is kept on one


def make_console(*, stderr: bool = False) -> Console:
    """A console for this moment's stdout or stderr."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    return console


def say(message: str) -> None:
    """One line about what happens, on stderr."""
    make_console(stderr=True).print(message, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """JSON on stdout, for scripts."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def show_items(items: Iterable[ApiObject], columns: Sequence[Column], *, as_json: bool, empty: str) -> None:
    """A list: a table, or a JSON array. `empty` is said where there is nothing, with what to do next."""
    found = list(items)
    if as_json:
        print_json([item.to_json() for item in found])
        return
    if not found:
        say(empty)
        return
    print_table(found, columns)


def print_table(items: Iterable[Any], columns: Sequence[Column], title: str | None = None) -> None:
    """Items as rows on stdout."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        pad_edge=False,
        show_edge=False,
        header_style="bold",
    )
    for column in columns:
        table.add_column(
            column.heading,
            justify="right" if column.right else "left",
            overflow="fold" if column.fold else "ellipsis",
            no_wrap=not column.fold,
        )
    for item in items:
        cells = [_format_cell(column.cell(item)) for column in columns]
        table.add_row(*(Text(cell, style=STATE_COLOURS.get(cell, "")) for cell in cells))
    make_console().print(table)


def show_object(item: ApiObject, fields: Sequence[tuple[str, Any]], *, as_json: bool) -> None:
    """One object: names and values under each other, or JSON."""
    if as_json:
        print_json(item.to_json())
    else:
        print_fields(fields)


def print_fields(fields: Sequence[tuple[str, Any]]) -> None:
    """Names and values under each other on stdout; values that are None or empty are left out."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in fields:
        if value is None or value in ("", {}, ()):
            continue
        text = _format_cell(value)
        grid.add_row(name, Text(text, style=STATE_COLOURS.get(text, "")))
    make_console().print(grid)


def print_secret(name: str, secret: str | None, hint: str) -> None:
    """A secret that is shown once, alone on stdout's line so that it can be copied or piped."""
    say(f"{name}; it is shown this once:")
    typer.echo(secret or "")
    say(hint)


def quiet_logs() -> None:
    """Keeps the platform's own log lines out of the terminal: only warnings pass, on stderr."""
    import logging
    import sys

    import structlog

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )


def _format_cell(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return format_number(value)
    return str(value)


def format_number(value: float) -> str:
    """A figure with as many digits as matter."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) < 100 else f"{value:.1f}"


def format_time(at: datetime) -> str:
    """A moment on the reader's own clock."""
    moment = at if at.tzinfo else at.replace(tzinfo=UTC)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def format_bytes(count: float) -> str:
    """`5242880` becomes `5.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_seconds(seconds: float) -> str:
    """`95` becomes `1 min 35 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def tell_state(revoked_at: datetime | None, expires_at: datetime | None) -> str:
    """The state of a credential, told by its dates."""
    if revoked_at is not None:
        return "revoked"
    if expires_at is not None and expires_at <= datetime.now(UTC):
        return "expired"
    return "active"
