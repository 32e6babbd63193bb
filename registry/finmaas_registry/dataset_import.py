"""Imports a file of rows: reads it as a stream, checks each row, splits it, and stores Parquet files.

Two passes keep memory flat: the first spools converted batches to scratch, where types of the other columns become
known; the second writes one Parquet file a split. Equal content gives equal bytes, so a repeated import is the same
version. Nothing counts until the control plane commits a row for the result; scratch of a killed import is removed by
`sweep_scratch`.
"""

from __future__ import annotations

import errno
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq

from finmaas_core.errors import InvalidInput, StoreFull
from finmaas_registry.canonical import GROUP, ROW, Canonical, unify_types
from finmaas_registry.manifest import FileEntry, Manifest, make_manifest
from finmaas_registry.readers import open_table
from finmaas_registry.readers.table import Limits
from finmaas_registry.shapes import Layout, decide_layout
from finmaas_registry.splits import SPLITS, Fractions, choose_split
from finmaas_registry.statistics import Gathered
from finmaas_registry.store import BlobStore, put_file

ROW_GROUP_ROWS = 65_536
ROW_GROUP_BYTES = 64 << 20
_LOCK = "lock"


@dataclass(frozen=True)
class ImportOptions:
    """What the user says about a file; what is left out is told from its columns."""

    shape: str | None = None
    text: str | None = None
    label: str | None = None
    group: str | None = None
    fractions: Fractions = field(default_factory=Fractions)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class ImportedDataset:
    """What an import made; its blobs are in the store already."""

    source: str
    shape: str
    rows: int
    splits: dict[str, int]
    schema: list[dict[str, str]]
    stats: dict[str, Any]
    manifest: Manifest


def import_dataset(path: Path, name: str, store: BlobStore, scratch: Path, options: ImportOptions) -> ImportedDataset:
    """Reads the file at `path`, which its owner calls `name`, and stores its rows.

    Raises InvalidInput or BadRow (the file cannot be used), StoreFull; the scratch folder is left as it was.
    """
    with scratch_folder(scratch) as folder:
        table = open_table(path, name, options.limits)
        layout = decide_layout(name, table.columns, options.shape, options.text, options.label, options.group)
        canonical = Canonical(table, layout, options.limits)
        spool = _Spool(folder)
        gathered = Gathered(layout)
        bounds = options.fractions.bounds
        for raw in table.batches:
            batch = canonical.convert(raw)
            groups = batch.column(GROUP).to_pylist()
            splits = [choose_split(group, bounds) for group in groups]
            gathered.add(batch, groups, splits)
            spool.write(batch, splits)
        _check_rows(name, gathered)
        schema = spool.schema()
        manifest = make_manifest(_store_split(spool, schema, split, folder, store) for split in SPLITS)
        stats = gathered.as_json(options.fractions)
        return ImportedDataset(
            source=name,
            shape=layout.shape.value,
            rows=gathered.rows,
            splits=dict(gathered.splits),
            schema=_describe(schema, layout),
            stats=stats,
            manifest=manifest,
        )


@contextmanager
def scratch_folder(root: Path) -> Iterator[Path]:
    """A folder that is gone afterwards; held by a lock, so that `sweep_scratch` knows it is in use."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = Path(tempfile.mkdtemp(dir=root))
    try:
        with (folder / _LOCK).open("xb") as lock, _naming_full_disk(folder):
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_scratch(root: Path) -> int:
    """Removes scratch folders whose process is gone and says how many; call it when the control plane starts."""
    removed = 0
    for folder in root.iterdir() if root.is_dir() else ():
        # A folder without a lock file is being made this moment, or its maker died in between: it is empty then.
        with suppress(FileNotFoundError, BlockingIOError, NotADirectoryError), (folder / _LOCK).open("rb") as lock:
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed


class _Spool:
    """Batches on disk, each with the types it happened to have; read back with one schema for all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._schemas: list[pa.Schema] = []

    def write(self, batch: pa.RecordBatch, splits: list[int]) -> None:
        """Keeps a batch, its rows parted by split."""
        index = pa.array(splits, pa.int8())
        with pa.ipc.new_file(self._path(len(self._schemas)), batch.schema) as out:
            for split in range(len(SPLITS)):
                out.write_batch(batch.filter(pc.equal(index, split)))
        self._schemas.append(batch.schema)

    def schema(self) -> pa.Schema:
        """The schema that fits every batch; row and group last."""
        types: dict[str, list[pa.DataType]] = {}
        for schema in dict.fromkeys(self._schemas):
            for column in schema:
                types.setdefault(column.name, []).append(column.type)
        order = [name for name in types if name not in (ROW, GROUP)] + [ROW, GROUP]
        return pa.schema([(name, unify_types(types[name])) for name in order])

    def read(self, split: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The rows of a split in the order of the file."""
        for number in range(len(self._schemas)):
            with pa.memory_map(str(self._path(number))) as source, pa.ipc.open_file(source) as batches:
                yield _fit(batches.get_batch(SPLITS.index(split)), schema)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.arrow"


def _fit(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    present = set(batch.schema.names)
    columns = [
        batch.column(column.name).cast(column.type) if column.name in present else pa.nulls(batch.num_rows, column.type)
        for column in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _store_split(spool: _Spool, schema: pa.Schema, split: str, folder: Path, store: BlobStore) -> FileEntry:
    path = folder / f"{split}.parquet"
    with pq.ParquetWriter(path, schema, version="2.6", compression="zstd", use_content_defined_chunking=True) as out:
        for table in _row_groups(spool.read(split, schema), schema):
            out.write_table(table, row_group_size=table.num_rows)
    stored = put_file(store, path)
    path.unlink()
    return FileEntry(f"data/{split}.parquet", stored.digest, stored.size)


def _row_groups(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if batch.num_rows:
            held.append(batch)
            rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
            yield pa.Table.from_batches(held, schema)
            held, rows, size = [], 0, 0
    if held:
        yield pa.Table.from_batches(held, schema)


def _check_rows(name: str, gathered: Gathered) -> None:
    if not gathered.rows:
        raise InvalidInput(f"{name} has a header but no row; give at least one", file=name)
    if not gathered.splits["train"]:
        raise InvalidInput(
            f"{name} has too few rows ({gathered.rows}): none falls into train; add rows or give `splits` 1,0,0",
            file=name,
        )


def _describe(schema: pa.Schema, layout: Layout) -> list[dict[str, str]]:
    described = []
    for column in schema:
        role = "part" if column.name in layout.sources else "other"
        entry = {"name": column.name, "type": str(column.type), "role": role}
        if source := layout.sources.get(column.name):
            entry["source"] = source
        described.append(entry)
    return described


@contextmanager
def _naming_full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"no room is left in {folder.parent}; nothing was imported; free some space") from error
        raise
