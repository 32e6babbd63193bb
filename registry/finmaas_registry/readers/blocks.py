"""Large text files cut into byte ranges that hold whole rows, so that several processes can read one file.

Only plain files are cut: UTF-8 without a byte order mark, lines that end in a newline. For everything else `cut_blocks`
gives None or a reader raises NotPlain, and the file is read from its start to its end as before.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from finmaas_core.errors import InvalidInput
from finmaas_registry.readers.delimited import CSV_FIELD_CHARS, read_batches, sniff_delimiter
from finmaas_registry.readers.jsonl import make_batch, parse_lines
from finmaas_registry.readers.table import Limits, RawBatch, check_header

_BOMS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class NotPlain(Exception):
    """A block shows that its file has to be read from start to end."""


@dataclass(frozen=True)
class TextBlock:
    """Whole rows of a file: `size` bytes from `start` on; `line` is the number of the first one, counted from 1."""

    start: int
    size: int
    line: int


@dataclass(frozen=True)
class Cut:
    """A file that can be read in blocks; `delimiter` is None for JSON lines."""

    path: Path
    name: str
    columns: tuple[str, ...]
    delimiter: str | None
    first: TextBlock
    limits: Limits

    def blocks(self) -> Iterator[TextBlock]:
        """The blocks in the order of the file. Raises NotPlain."""
        return _cut(self.path, self.first, self.limits, quoted=self.delimiter is not None)

    def read(self, block: TextBlock) -> RawBatch | None:
        """The rows of a block; None when its lines are empty. Raises BadRow (of JSON lines only), NotPlain."""
        with self.path.open("rb") as file:
            file.seek(block.start)
            data = file.read(block.size)
        if self.delimiter is None:
            return _read_json(data, block, self.name, self.limits)
        return _read_csv(data, block, self)


def cut_blocks(path: Path, name: str, limits: Limits) -> Cut | None:
    """How to cut a file, or None when it cannot be."""
    suffix = Path(name).suffix.lower()
    is_json = suffix in (".jsonl", ".ndjson")
    if not is_json and suffix not in (".csv", ".tsv", ".txt"):
        return None
    with path.open("rb") as file:
        head = file.read(limits.block_bytes)
    if head.startswith(_BOMS) or b"\n" not in head:
        return None
    try:
        return _cut_json(path, name, limits) if is_json else _cut_csv(path, name, head, limits)
    except (NotPlain, InvalidInput, UnicodeDecodeError, csv.Error):
        return None  # whatever it is, reading from the start will say it


def _cut_json(path: Path, name: str, limits: Limits) -> Cut | None:
    whole = TextBlock(0, path.stat().st_size, 1)
    cut = Cut(path, name, (), None, whole, limits)
    for block in cut.blocks():
        if batch := cut.read(block):
            return Cut(path, name, tuple(batch.columns), None, whole, limits)
    return None


def _cut_csv(path: Path, name: str, head: bytes, limits: Limits) -> Cut | None:
    header = head[: head.index(b"\n") + 1]
    text = header.decode()
    if header.count(b'"') % 2 or "\r" in text.removesuffix("\r\n"):
        return None
    delimiter = sniff_delimiter(text)
    cells = next(csv.reader([text], delimiter=delimiter, strict=True))
    columns = check_header(name, cells, limits)
    rest = TextBlock(len(header), path.stat().st_size - len(header), 2)
    return Cut(path, name, columns, delimiter, rest, limits)


def _cut(path: Path, whole: TextBlock, limits: Limits, *, quoted: bool) -> Iterator[TextBlock]:
    start, line = whole.start, whole.line
    with path.open("rb") as file:
        file.seek(start)
        held = b""
        while chunk := file.read(limits.block_bytes):
            if chunk.count(b"\r") != chunk.count(b"\r\n") + chunk.endswith(b"\r"):
                raise NotPlain
            held += chunk
            end = _last_row_end(held, quoted=quoted)
            if end:
                yield TextBlock(start, end, line)
                start, line, held = start + end, line + held.count(b"\n", 0, end), held[end:]
            elif len(held) >= limits.line_bytes:
                raise NotPlain  # the reader from the start names the line
        if held:
            yield TextBlock(start, len(held), line)


def _last_row_end(data: bytes, *, quoted: bool) -> int:
    """Where the last whole row ends; 0 when there is none. A newline inside quotes ends no row.

    A lone quote inside a cell deceives this; then a block ends inside quotes, which its reader refuses.
    """
    end = data.rfind(b"\n") + 1
    while quoted and end and data.count(b'"', 0, end) % 2:
        end = data.rfind(b"\n", 0, end - 1) + 1
    return end


def _read_json(data: bytes, block: TextBlock, name: str, limits: Limits) -> RawBatch | None:
    try:
        rows: list[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any]).decode_lines(data)
    except (msgspec.DecodeError, msgspec.ValidationError):
        rows = []
    lines = data.count(b"\n") + (not data.endswith(b"\n"))
    if len(rows) == lines:
        return make_batch(rows, range(block.line, block.line + lines), name, limits)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise NotPlain from error
    return next(parse_lines(_numbered(data, block.line), name, _whole(limits)), None)


def _numbered(data: bytes, first: int) -> Iterator[tuple[int, bytes]]:
    for place, line in enumerate(data.split(b"\n"), start=first):
        if line and not line.isspace():
            yield place, line


def _whole(limits: Limits) -> Limits:
    """A block is one batch, which its own size bounds."""
    return replace(limits, batch_rows=1 << 40, batch_chars=1 << 40)


def _read_csv(data: bytes, block: TextBlock, cut: Cut) -> RawBatch | None:
    assert cut.delimiter is not None
    csv.field_size_limit(CSV_FIELD_CHARS)
    try:
        lines = csv.reader(io.StringIO(data.decode(), newline=""), delimiter=cut.delimiter, strict=True)
        return next(read_batches(lines, cut.name, cut.columns, _whole(cut.limits), block.line - 1), None)
    except (UnicodeDecodeError, InvalidInput) as error:
        raise NotPlain from error
