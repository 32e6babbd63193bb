"""Batches of an import on disk, each with the types it happened to have; read back with one schema for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq

from finmaas_registry.canonical import GROUP, ROW, unify_types
from finmaas_registry.splits import SPLITS

ROW_GROUP_ROWS = 131_072
ROW_GROUP_BYTES = 64 << 20


def write_spool(folder: Path, number: int, batch: pa.RecordBatch, splits: npt.NDArray[np.uint8]) -> None:
    """Keeps a batch, its rows parted by split."""
    index = pa.array(splits)
    with pa.ipc.new_file(_path(folder, number), batch.schema) as out:
        for split in range(len(SPLITS)):
            out.write_batch(batch.filter(pc.equal(index, pa.scalar(split, pa.uint8()))))


def unify_schemas(schemas: list[pa.Schema]) -> pa.Schema:
    """The schema that fits every batch; row and group last."""
    types: dict[str, list[pa.DataType]] = {}
    for schema in dict.fromkeys(schemas):
        for column in schema:
            types.setdefault(column.name, []).append(column.type)
    order = [name for name in types if name not in (ROW, GROUP)] + [ROW, GROUP]
    return pa.schema([(name, unify_types(types[name])) for name in order])


def write_split(folder: Path, batches: int, schema: pa.Schema, split: str) -> Path:
    """The rows of a split, in the order of the file, as Parquet whose pages are cut by content."""
    path = folder / f"{split}.parquet"
    with pq.ParquetWriter(path, schema, version="2.6", compression="zstd", use_content_defined_chunking=True) as out:
        for table in _row_groups(_read(folder, batches, schema, split), schema):
            out.write_table(table, row_group_size=table.num_rows)
    return path


def read_row(folder: Path, number: int, split: str, at: int) -> dict[str, Any]:
    """One row of a batch, for an example."""
    with pa.memory_map(str(_path(folder, number))) as source, pa.ipc.open_file(source) as batches:
        found: dict[str, Any] = batches.get_batch(SPLITS.index(split)).slice(at, 1).to_pylist()[0]
        return found


def _read(folder: Path, batches: int, schema: pa.Schema, split: str) -> Iterator[pa.RecordBatch]:
    for number in range(batches):
        with pa.memory_map(str(_path(folder, number))) as source, pa.ipc.open_file(source) as stored:
            yield _fit(stored.get_batch(SPLITS.index(split)), schema)


def _fit(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    present = set(batch.schema.names)
    columns = [
        batch.column(column.name).cast(column.type) if column.name in present else pa.nulls(batch.num_rows, column.type)
        for column in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _row_groups(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Tables cut after so many rows or bytes, wherever batches ended: equal rows give equal files."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        while batch.num_rows:
            ends = size + np.cumsum(_row_bytes(batch))
            fit = min(ROW_GROUP_ROWS - rows, max(1, int(np.searchsorted(ends, ROW_GROUP_BYTES, side="right"))))
            held.append(batch.slice(0, fit))
            rows, size = rows + min(fit, batch.num_rows), int(ends[min(fit, batch.num_rows) - 1])
            batch = batch.slice(fit)
            if rows >= ROW_GROUP_ROWS or batch.num_rows:
                yield pa.Table.from_batches(held, schema)
                held, rows, size = [], 0, 0
    if held:
        yield pa.Table.from_batches(held, schema)


def _row_bytes(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """How large each row is, about: its texts, and eight bytes for every other column."""
    size = np.full(batch.num_rows, 8 * batch.num_columns, np.int64)
    for column in batch.columns:
        if pa.types.is_string(column.type):
            size += pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)
    return size


def _path(folder: Path, number: int) -> str | Path:
    return folder / f"{number:06d}.arrow"
