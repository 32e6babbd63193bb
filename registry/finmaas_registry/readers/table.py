"""What every reader gives: column names, and batches of rows that know which line each came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from finmaas_core.errors import BadRow, InvalidInput


@dataclass(frozen=True)
class Limits:
    """Bounds that keep memory flat whatever is sent."""

    batch_rows: int = 16_384
    batch_chars: int = 16 << 20
    block_bytes: int = 2 << 20  # of a large text file, which several processes read in such blocks
    cell_chars: int = 1 << 20
    columns: int = 1000
    unpacked_bytes: int = 4 << 30  # of an XLSX, which is a ZIP

    @property
    def line_bytes(self) -> int:
        """A JSON line: several cells, each character up to six bytes (\\uXXXX)."""
        return 8 * self.cell_chars


@dataclass(frozen=True)
class RawBatch:
    """Some rows: `lines` are their places in the file, counted from 1; columns are lists of values or Arrow arrays."""

    lines: Sequence[int]
    columns: Mapping[str, Sequence[Any] | pa.Array]


@dataclass(frozen=True)
class Table:
    """A file of rows. `columns` are those known at the start; JSONL may bring more in later batches."""

    name: str
    columns: tuple[str, ...]
    batches: Iterator[RawBatch]
    place: str = "line"  # what `lines` count: line or row


def bad_row(name: str, line: int, problem: str, advice: str, column: str | None = None, place: str = "line") -> BadRow:
    """The error for a row that cannot be used: `file line 7, column x: problem; advice`."""
    at = f"{name} {place} {line}" + (f", column {column}" if column else "")
    return BadRow(f"{at}: {problem}; {advice}", file=name, line=line, column=column)


def check_header(name: str, header: Sequence[str], limits: Limits) -> tuple[str, ...]:
    """The names of the columns, trimmed. Raises InvalidInput: none, too many, an empty or repeated one."""
    columns = tuple(column.strip() for column in header)
    if not any(columns):
        raise InvalidInput(f"{name} has no header; its first line must name the columns", file=name)
    if len(columns) > limits.columns:
        raise InvalidInput(f"{name} has {len(columns)} columns; at most {limits.columns} can be imported", file=name)
    if "" in columns:
        at = columns.index("") + 1
        raise InvalidInput(f"{name}: column {at} of the header has no name; name it or remove it", file=name)
    twice = [column for column, count in Counter(columns).items() if count > 1]
    if twice:
        raise InvalidInput(f"{name}: the header names {twice[0]!r} more than once; rename one of them", file=name)
    return columns


def check_cell(name: str, line: int, column: str, value: str, limits: Limits, place: str = "line") -> None:
    """Raises BadRow for a cell that is too large."""
    if len(value) > limits.cell_chars:
        problem = f"the cell has {len(value):,} characters, at most {limits.cell_chars:,} can be imported"
        raise bad_row(name, line, problem, "shorten it or split the row", column, place)
