"""Rows of CSV and its kin. Every cell is text: what looks like a number stays what was written."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from finmaas_core.errors import BadRow, InvalidInput
from finmaas_registry.readers.encoding import detect_encoding
from finmaas_registry.readers.table import Limits, RawBatch, Table, bad_row, check_cell, check_header

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

DELIMITERS = (",", ";", "\t")
# The csv module has one bound for the whole process; ours comes after it, with a better message.
CSV_FIELD_CHARS = 1 << 27


def read_delimited(path: Path, name: str, limits: Limits) -> Table:
    """A delimited file with a header; the delimiter is the one that cuts the header into most columns."""
    encoding = detect_encoding(path, name)
    csv.field_size_limit(CSV_FIELD_CHARS)
    with path.open(encoding=encoding, newline="") as file:
        header_line = file.readline(limits.cell_chars)
    delimiter = sniff_delimiter(header_line)
    batches = _read(path, name, encoding, delimiter, limits)
    columns = next(batches)
    assert isinstance(columns, tuple)
    return Table(name, columns, _only_batches(batches))


def sniff_delimiter(header: str) -> str:
    """Comma, semicolon or tab: whichever parts the header most often outside quotes; comma when none does."""
    outside = "".join(header.split('"')[::2])
    return max(DELIMITERS, key=outside.count)


def _only_batches(items: Iterator[tuple[str, ...] | RawBatch]) -> Iterator[RawBatch]:
    for item in items:
        assert isinstance(item, RawBatch)
        yield item


def _read(path: Path, name: str, encoding: str, delimiter: str, limits: Limits) -> Iterator[tuple[str, ...] | RawBatch]:
    """First the header, then the batches: one open file for both."""
    with path.open(encoding=encoding, newline="") as file:
        lines = csv.reader(_bounded(file, name, limits), delimiter=delimiter, strict=True)
        header = _next_row(lines, name, 1)
        if header is None:
            raise InvalidInput(f"{name} is empty; give a header and at least one row", file=name)
        columns = check_header(name, header, limits)
        yield columns
        yield from read_batches(lines, name, columns, limits)


def read_batches(
    lines: CsvReader, name: str, columns: tuple[str, ...], limits: Limits, before: int = 0
) -> Iterator[RawBatch]:
    """The rows that follow; `before` is how many lines of the file come before those that the reader counts."""
    width = len(columns)
    rows: list[list[str]] = []
    places: list[int] = []
    chars = 0
    last = before + lines.line_num
    while True:
        row = _next_row(lines, name, last + 1)
        if row is None:
            break
        start, last = last + 1, before + lines.line_num
        if len(row) != width:
            if not row:
                continue  # an empty line
            raise _wrong_width(name, start, row, columns)
        size = sum(map(len, row))
        if size > limits.cell_chars:
            for column, cell in zip(columns, row, strict=True):
                check_cell(name, start, column, cell, limits)
        chars += size
        rows.append(row)
        places.append(start)
        if len(rows) >= limits.batch_rows or chars >= limits.batch_chars:
            yield _batch(rows, places, columns)
            rows, places, chars = [], [], 0
    if rows:
        yield _batch(rows, places, columns)


def _batch(rows: list[list[str]], places: list[int], columns: tuple[str, ...]) -> RawBatch:
    return RawBatch(places, dict(zip(columns, zip(*rows, strict=True), strict=True)))


def _next_row(lines: CsvReader, name: str, line: int) -> list[str] | None:
    try:
        return next(lines, None)
    except csv.Error as error:
        raise bad_row(
            name, line, f"the quoting is broken ({error})", 'close every quote, and write "" for a quote inside quotes'
        ) from error


def _bounded(file: TextIO, name: str, limits: Limits) -> Iterator[str]:
    """Lines, none of them endless: the csv module itself would read one of any length."""
    line = 0
    while text := file.readline(limits.batch_chars):
        line += 1
        if len(text) >= limits.batch_chars:
            raise bad_row(
                name, line, f"the line is longer than {limits.batch_chars:,} characters", "is this a text file?"
            )
        yield text


def _wrong_width(name: str, line: int, row: list[str], columns: tuple[str, ...]) -> BadRow:
    advice = "put cells that hold the delimiter or a line break in double quotes"
    problem = f"it has {len(row)} cells, the header has {len(columns)}"
    column = columns[len(row)] if len(row) < len(columns) else columns[-1]
    return bad_row(name, line, problem, advice, column)
