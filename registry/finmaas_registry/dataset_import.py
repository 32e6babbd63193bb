"""Imports a file of rows: reads it as a stream, checks each row, splits it, and stores Parquet files and reports.

Two passes keep memory flat. The first converts blocks of rows, in several processes where it is asked to, and spools
them to scratch, where types of the other columns become known; the second writes one Parquet file a split, an index of
the rows, and the reports. Equal content gives equal files, so a repeated import is the same version. Nothing counts
until the control plane commits a row for the result; scratch of a killed import is removed by `sweep_scratch`.
"""

from __future__ import annotations

import errno
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from finmaas_core.errors import InvalidInput, StoreFull
from finmaas_registry.canonical import Canonical
from finmaas_registry.import_blocks import Block, BlockConverter, BlockFacts, StoredRows
from finmaas_registry.import_pool import convert_blocks
from finmaas_registry.import_report import Places, make_report
from finmaas_registry.manifest import FileEntry, Manifest, make_manifest
from finmaas_registry.readers import open_table
from finmaas_registry.readers.blocks import Cut, NotPlain, cut_blocks
from finmaas_registry.readers.table import Limits
from finmaas_registry.row_index import write_index
from finmaas_registry.shapes import Layout, decide_layout
from finmaas_registry.splits import SPLITS, Fractions
from finmaas_registry.spool import unify_schemas, write_split
from finmaas_registry.statistics import Gathered
from finmaas_registry.store import BlobStore, put_file
from finmaas_registry.tags import Tags

INDEX = "rows.index"
_LOCK = "lock"
_NO_KEY = bytes(32)


@dataclass(frozen=True)
class ImportOptions:
    """What the user says about a file; what is left out is told from its columns."""

    shape: str | None = None
    text: str | None = None
    label: str | None = None
    group: str | None = None
    fractions: Fractions = field(default_factory=Fractions)
    tags: Tags = field(default_factory=Tags)
    limits: Limits = field(default_factory=Limits)
    workers: int = 0
    """Processes that convert blocks; 0 is this one alone. More only where no other thread runs (`import_pool`)."""
    index_key: bytes = field(default=_NO_KEY, repr=False)
    """Of the index of rows (`row_index.derive_key`)."""


@dataclass(frozen=True)
class ConvertedDataset:
    """What a conversion left in its scratch folder: files by their path in the version, and the index of rows."""

    source: str
    shape: str
    rows: int
    splits: dict[str, int]
    schema: list[dict[str, str]]
    stats: dict[str, Any]
    report: dict[str, Any]
    files: dict[str, Path]
    index: Path


@dataclass(frozen=True)
class ImportedDataset:
    """What an import made; its blobs are in the store already. `index` belongs to the version, not to its content."""

    source: str
    shape: str
    rows: int
    splits: dict[str, int]
    schema: list[dict[str, str]]
    stats: dict[str, Any]
    report: dict[str, Any]
    manifest: Manifest
    index: FileEntry


def import_dataset(path: Path, name: str, store: BlobStore, scratch: Path, options: ImportOptions) -> ImportedDataset:
    """Reads the file at `path`, which its owner calls `name`, and stores its rows.

    Raises InvalidInput or BadRow (the file cannot be used), StoreFull; the scratch folder is left as it was.
    """
    with scratch_folder(scratch) as folder:
        return store_converted(convert_file(path, name, folder, options), store)


def convert_file(path: Path, name: str, folder: Path, options: ImportOptions) -> ConvertedDataset:
    """The first half of an import: everything but the store. Leaves its files in `folder`."""
    cut = cut_blocks(path, name, options.limits)
    if cut is not None:
        try:
            return _convert_cut(cut, folder, options)
        except NotPlain:
            pass
    table = open_table(path, name, options.limits)
    converter = _make_converter(name, table.columns, table.place, folder, options, None)
    return _finish(name, converter, table.batches, options)


def convert_stored(
    source: str, rows: list[StoredRows], schema: list[dict[str, str]], shape: str, folder: Path, options: ImportOptions
) -> ConvertedDataset:
    """Rows of a version that is there already as a new one: they keep their columns, splits and groups."""
    parts = {column["name"]: column.get("source") for column in schema if column["role"] == "part"}
    layout = decide_layout(source, list(parts), shape)
    layout = Layout(layout.shape, dict(parts))
    canonical = Canonical(source, "row", layout, options.limits, options.tags)
    converter = BlockConverter(layout, canonical, options.tags, options.fractions.bounds, folder, None)
    return _finish(source, converter, iter(rows), options)


def store_converted(made: ConvertedDataset, store: BlobStore) -> ImportedDataset:
    """The second half: what was converted as blobs."""
    files = []
    for path, file in made.files.items():
        stored = put_file(store, file)
        files.append(FileEntry(path, stored.digest, stored.size))
        file.unlink()
    index = put_file(store, made.index)
    return ImportedDataset(
        source=made.source,
        shape=made.shape,
        rows=made.rows,
        splits=made.splits,
        schema=made.schema,
        stats=made.stats,
        report=made.report,
        manifest=make_manifest(files),
        index=FileEntry(INDEX, index.digest, index.size),
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


def _convert_cut(cut: Cut, folder: Path, options: ImportOptions) -> ConvertedDataset:
    converter = _make_converter(cut.name, cut.columns, "line", folder, options, cut)
    return _finish(cut.name, converter, cut.blocks(), options)


def _make_converter(
    name: str, columns: tuple[str, ...], place: str, folder: Path, options: ImportOptions, cut: Cut | None
) -> BlockConverter:
    layout = decide_layout(name, columns, options.shape, options.text, options.label, options.group)
    for column in options.tags.columns:
        if column not in columns:
            raise InvalidInput(f"{name} has no column {column!r}; it has {', '.join(columns[:20])}", file=name)
    canonical = Canonical(name, place, layout, options.limits, options.tags)
    return BlockConverter(layout, canonical, options.tags, options.fractions.bounds, folder, cut)


def _finish(name: str, converter: BlockConverter, blocks: Iterator[Block], options: ImportOptions) -> ConvertedDataset:
    facts = list(convert_blocks(converter, blocks, options.workers))
    gathered = Gathered(converter.layout)
    for one in facts:
        gathered.merge(one.gathered)
    _check_rows(name, gathered, sum(one.without_consent for one in facts))
    schema = unify_schemas([one.schema for one in facts])
    files, report = _write(converter, facts, schema, options)
    return ConvertedDataset(
        source=name,
        shape=converter.layout.shape.value,
        rows=gathered.rows,
        splits=dict(gathered.splits),
        schema=_describe(schema, converter.layout),
        stats=gathered.as_json(options.fractions),
        report=report,
        files=files,
        index=converter.folder / INDEX,
    )


def _write(
    converter: BlockConverter, facts: list[BlockFacts], schema: pa.Schema, options: ImportOptions
) -> tuple[dict[str, Path], dict[str, Any]]:
    """The version's files and its report, side by side: writing Parquet and sorting leave the interpreter free."""
    folder = converter.folder
    with ThreadPoolExecutor(max_workers=2) as threads:
        writing = threads.submit(lambda: {s: write_split(folder, len(facts), schema, s) for s in SPLITS})
        telling = threads.submit(make_report, folder, facts, options.tags, converter.layout.shape)
        _write_index(folder / INDEX, facts, options.index_key)
        files, report = writing.result(), telling.result()
    return {f"data/{split}.parquet": path for split, path in files.items()}, report


def _write_index(path: Path, facts: list[BlockFacts], key: bytes) -> None:
    order = Places.of(facts).by_file()
    text, content = (np.concatenate(parts)[order] for parts in ([f.text for f in facts], [f.content for f in facts]))
    ids = [one.ids for one in facts if one.ids is not None]
    write_index(path, key, text, content, np.concatenate(ids)[order] if len(ids) == len(facts) else None)


def _check_rows(name: str, gathered: Gathered, dropped: int) -> None:
    if not gathered.rows:
        if dropped:
            raise InvalidInput(f"{name}: none of its {dropped:,} rows has consent; nothing is left", file=name)
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
