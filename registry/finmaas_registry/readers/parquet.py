"""Rows of a Parquet file, in the file's own types."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from finmaas_core.errors import InvalidInput
from finmaas_registry.readers.table import Limits, RawBatch, Table, check_header


def read_parquet(path: Path, name: str, limits: Limits) -> Table:
    """A Parquet file; rows are counted from 1. InvalidInput when it is broken or holds no row."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _broken(name, error) from error
    columns = check_header(name, file.schema_arrow.names, limits)
    if file.metadata.num_rows == 0:
        raise InvalidInput(f"{name} holds no row", file=name)
    return Table(name, columns, _batches(file, name, columns, limits), place="row")


def _batches(file: pq.ParquetFile, name: str, columns: tuple[str, ...], limits: Limits) -> Iterator[RawBatch]:
    at = 1
    with file:
        batches = file.iter_batches(batch_size=limits.batch_rows)
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise _broken(name, error) from error
            if batch is None:
                return
            yield RawBatch(range(at, at + batch.num_rows), dict(zip(columns, map(_plain, batch.columns), strict=True)))
            at += batch.num_rows


def _plain(column: pa.Array) -> pa.Array:
    """Dictionaries and the several string types as what they mean."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        return column.cast(pa.string())
    return column


def _broken(name: str, error: Exception) -> InvalidInput:
    return InvalidInput(f"{name} cannot be read as Parquet ({error}); write it again", file=name)
