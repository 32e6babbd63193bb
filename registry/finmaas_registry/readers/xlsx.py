"""Rows of the first sheet of an Excel workbook. Cells become text, as a CSV saved from it would have them."""

from __future__ import annotations

import datetime as dt
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from openpyxl import load_workbook
from openpyxl.utils.exceptions import InvalidFileException

from finmaas_core.errors import InvalidInput
from finmaas_registry.readers.table import Limits, RawBatch, Table, bad_row, check_cell, check_header

Sheet = Iterator[tuple[Any, ...]]


def read_xlsx(path: Path, name: str, limits: Limits) -> Table:
    """The first sheet; its first row names the columns. Formulas give the value that was saved with them."""
    _check_size(path, name, limits)
    try:
        book = load_workbook(path, read_only=True, data_only=True)
        rows: Sheet = book.worksheets[0].iter_rows(values_only=True)
        header = next(rows, ())
    except (InvalidFileException, ParseError, zipfile.BadZipFile, KeyError, ValueError, IndexError) as error:
        raise InvalidInput(
            f"{name} cannot be read as a workbook ({error}); save it again as .xlsx", file=name
        ) from error
    names = [_text(cell) or "" for cell in header]
    while names and not names[-1]:
        names.pop()
    columns = check_header(name, names, limits)
    return Table(name, columns, _batches(rows, name, columns, limits), place="row")


def _batches(sheet: Sheet, name: str, columns: tuple[str, ...], limits: Limits) -> Iterator[RawBatch]:
    rows: list[list[str | None]] = []
    places: list[int] = []
    chars = 0
    for place, cells in enumerate(sheet, start=2):
        texts = [_text(cell) for cell in cells]
        if not any(texts):
            continue
        if any(texts[len(columns) :]):
            problem = f"a cell beyond the last named column ({columns[-1]}) is filled"
            raise bad_row(name, place, problem, "name its column in the first row or clear it", place="row")
        row = (texts + [None] * len(columns))[: len(columns)]
        for column, text in zip(columns, row, strict=True):
            check_cell(name, place, column, text or "", limits, "row")
        chars += sum(len(text or "") for text in row)
        rows.append(row)
        places.append(place)
        if len(rows) >= limits.batch_rows or chars >= limits.batch_chars:
            yield RawBatch(places, dict(zip(columns, zip(*rows, strict=True), strict=True)))
            rows, places, chars = [], [], 0
    if rows:
        yield RawBatch(places, dict(zip(columns, zip(*rows, strict=True), strict=True)))


def _text(cell: Any) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return "TRUE" if cell else "FALSE"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, dt.datetime) and cell.time() == dt.time(0):
        return cell.date().isoformat()
    return cell.isoformat() if isinstance(cell, dt.date | dt.time) else str(cell)


def _check_size(path: Path, name: str, limits: Limits) -> None:
    """Raises InvalidInput for what is no ZIP, or unpacks to far more than it seems."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile as error:
        raise InvalidInput(f"{name} is not an .xlsx workbook; save it again as .xlsx", file=name) from error
    if unpacked > limits.unpacked_bytes:
        raise InvalidInput(f"{name} unpacks to {unpacked:,} bytes; save so large a table as Parquet or CSV", file=name)
