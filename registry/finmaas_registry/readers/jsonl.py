"""Rows of JSON Lines: one object a line. Columns are the keys met; a key that a row lacks is null there."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from finmaas_core.errors import InvalidInput
from finmaas_registry.readers.encoding import detect_encoding
from finmaas_registry.readers.table import Limits, RawBatch, Table, bad_row

Rows = list[dict[str, Any]]


def read_jsonl(path: Path, name: str, limits: Limits) -> Table:
    """A JSON Lines file; its columns are those of the first batch. InvalidInput when it holds no row."""
    batches = parse_lines(_lines(path, name, limits), name, limits)
    first = next(batches, None)
    if first is None:
        raise InvalidInput(f"{name} holds no row; write one JSON object a line", file=name)
    return Table(name, tuple(first.columns), itertools.chain([first], batches))


def parse_lines(lines: Iterable[tuple[int, bytes]], name: str, limits: Limits) -> Iterator[RawBatch]:
    """Numbered lines as batches. Raises BadRow for the first that is no JSON object."""
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    rows: Rows = []
    places: list[int] = []
    size = 0
    for place, line in lines:
        try:
            rows.append(decode(line))
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise bad_row(name, place, *_explain(line, error)) from error
        places.append(place)
        size += len(line)
        if len(rows) >= limits.batch_rows or size >= limits.batch_chars:
            yield make_batch(rows, places, name, limits)
            rows, places, size = [], [], 0
    if rows:
        yield make_batch(rows, places, name, limits)


def _lines(path: Path, name: str, limits: Limits) -> Iterator[tuple[int, bytes]]:
    """Lines as UTF-8 with their numbers, empty ones left out."""
    encoding = detect_encoding(path, name)
    with path.open("rb") if encoding == "utf-8" else path.open(encoding=encoding, newline="\n") as file:
        for place in itertools.count(1):
            line = file.readline(limits.line_bytes)
            if not line:
                return
            if len(line) >= limits.line_bytes:
                raise bad_row(name, place, f"the line is longer than {limits.line_bytes:,} bytes", "shorten its texts")
            encoded = line if isinstance(line, bytes) else line.encode()
            if not encoded.isspace():
                yield place, encoded


def _explain(line: bytes, error: Exception) -> tuple[str, str]:
    if line.lstrip().startswith(b"["):
        return "it begins a JSON array", "write each object on a line of its own, without [ ] and commas between them"
    if isinstance(error, msgspec.ValidationError):
        return "it is not a JSON object", 'write one object a line, e.g. {"text": "…", "label": "…"}'
    return f"it is not valid JSON ({error})", "write one whole JSON object on each line"


def make_batch(rows: Rows, places: Sequence[int], name: str, limits: Limits) -> RawBatch:
    """Objects as columns; what a row lacks is null there."""
    # Rows mostly have the same keys: then one look at each set is enough.
    keys = dict.fromkeys(rows[0])
    for row in rows:
        if row.keys() != keys.keys():
            keys.update(dict.fromkeys(row))
    if len(keys) > limits.columns:
        raise InvalidInput(f"{name} has more than {limits.columns} different keys; nest or drop some", file=name)
    if "" in keys:
        at = next(place for place, row in zip(places, rows, strict=True) if "" in row)
        raise bad_row(name, at, "one of its keys is empty", "name it or remove it")
    return RawBatch(places, {key: [row.get(key) for row in rows] for key in keys})
