"""Files of rows as streamed batches: CSV, JSONL, XLSX and Parquet behind one function. Shapes are not known here."""

from __future__ import annotations

from pathlib import Path

from finmaas_core.errors import InvalidInput
from finmaas_registry.readers.delimited import read_delimited
from finmaas_registry.readers.jsonl import read_jsonl
from finmaas_registry.readers.parquet import read_parquet
from finmaas_registry.readers.table import Limits, Table
from finmaas_registry.readers.xlsx import read_xlsx

_READERS = {
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".txt": read_delimited,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".xlsx": read_xlsx,
    ".parquet": read_parquet,
}
_INSTEAD = {
    ".xls": "save it as .xlsx",
    ".json": "write one JSON object a line and call it .jsonl",
    ".gz": "unpack it first",
    ".zip": "unpack it first",
}


def open_table(path: Path, name: str, limits: Limits | None = None) -> Table:
    """The rows of a file; `name` is what its owner calls it, and its ending tells the format.

    Raises InvalidInput (no such format, empty, broken) or BadRow, here or while batches are read.
    """
    suffix = Path(name).suffix.lower()
    reader = _READERS.get(suffix)
    if reader is None:
        hint = _INSTEAD.get(suffix, "give a .csv, .tsv, .jsonl, .xlsx or .parquet file")
        raise InvalidInput(f"{name}: files ending in {suffix or 'nothing'} cannot be imported; {hint}", file=name)
    if path.stat().st_size == 0:
        raise InvalidInput(f"{name} is empty; give a file with at least one row", file=name)
    return reader(path, name, limits or Limits())
