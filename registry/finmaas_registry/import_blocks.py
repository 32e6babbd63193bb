"""One block of rows on its way into a version: checked, split, spooled, and counted for every report.

This runs in several processes at once; what comes back is small, and the large parts lie in scratch: `000003.arrow` has
the block's rows, `000003.sketch` what near-duplicates are found by.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finmaas_registry.canonical import GROUP, ROW, Canonical, list_questions
from finmaas_registry.readers.blocks import Cut, TextBlock
from finmaas_registry.readers.table import RawBatch
from finmaas_registry.reports.near_duplicates import write_sketch
from finmaas_registry.reports.privacy import PrivacyFindings
from finmaas_registry.shapes import Layout
from finmaas_registry.splits import SPLITS, choose_splits, hash_key, normalise_text
from finmaas_registry.spool import write_spool
from finmaas_registry.statistics import Gathered
from finmaas_registry.tags import CONSENT, REFUSE, RETAIN_UNTIL, Tags, allows

U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class StoredRows:
    """Rows of a version that is there already: one row group of one of its files."""

    path: Path
    split: str
    row_group: int
    without: tuple[int, ...] = ()
    """Rows of the group that are left out."""


Block: TypeAlias = TextBlock | RawBatch | StoredRows


@dataclass
class BlockFacts:
    """What a block adds to the version, besides the rows themselves."""

    schema: pa.Schema
    gathered: Gathered
    splits: npt.NDArray[np.uint8]
    lines: npt.NDArray[np.int64]
    text: U64
    content: U64
    ids: U64 | None
    privacy: PrivacyFindings = field(default_factory=PrivacyFindings)
    retained: Counter[str] = field(default_factory=Counter)
    """Rows by their last day; "" is without end."""
    without_consent: int = 0


@dataclass(frozen=True)
class _Rows:
    """Rows in the version's columns; what each is grouped by and its id, where columns were named for them."""

    batch: pa.RecordBatch
    groups: list[str] | None
    ids: list[str | None] | None
    dropped: int = 0

    def keep(self, mask: pa.Array) -> _Rows:
        kept = mask.to_pylist()
        return _Rows(self.batch.filter(mask), _pick(self.groups, kept), _pick(self.ids, kept), kept.count(False))


@dataclass
class BlockConverter:
    """All that is needed to convert any block of one import."""

    layout: Layout
    canonical: Canonical
    tags: Tags
    bounds: tuple[int, int]
    folder: Path
    cut: Cut | None

    def convert(self, number: int, block: Block) -> BlockFacts:
        """Converts and spools a block under its number. Raises BadRow, NotPlain."""
        rows = self._read_stored(block) if isinstance(block, StoredRows) else self._read(block)
        batch = rows.batch
        texts = [normalise_text(text) for text in list_questions(self.layout.shape, batch)]
        keys = [hash_key(text) for text in texts]
        if GROUP not in batch.schema.names:
            groups = keys if rows.groups is None else [hash_key(text) for text in rows.groups]
            batch = batch.append_column(GROUP, pa.array([group.hex() for group in groups], pa.string()))
        groups_hashed = _to_hashes([bytes.fromhex("".join(batch.column(GROUP).to_pylist()))])
        splits = self._splits(block, groups_hashed)
        gathered = Gathered(self.layout)
        gathered.add(batch, groups_hashed, splits)
        write_spool(self.folder, number, batch, splits)
        write_sketch(pa.array(texts, pa.string()), self.folder / f"{number:06d}.sketch")
        return BlockFacts(
            schema=batch.schema,
            gathered=gathered,
            splits=splits,
            lines=batch.column(ROW).to_numpy(),
            text=_to_hashes(keys),
            content=_to_hashes([hash_key(text) for text in _contents(batch)]),
            ids=None if rows.ids is None else _to_hashes([hash_key(one or "") for one in rows.ids]),
            privacy=_scan(batch),
            retained=_count_days(batch),
            without_consent=rows.dropped,
        )

    def _read(self, block: TextBlock | RawBatch) -> _Rows:
        raw = block if isinstance(block, RawBatch) else self._cut_out(block)
        rows = _Rows(self.canonical.convert(raw), self.canonical.given_groups(raw), self.canonical.ids(raw))
        if self.tags.consent is None:
            return rows
        mask = allows(rows.batch.column(CONSENT), self.tags.purpose)
        if self.tags.without_consent == REFUSE:
            self._check_consent(raw, mask)
        return rows.keep(mask)

    def _cut_out(self, block: TextBlock) -> RawBatch:
        assert self.cut is not None
        return self.cut.read(block) or RawBatch([], {column: [] for column in self.cut.columns})

    def _read_stored(self, block: StoredRows) -> _Rows:
        with pq.ParquetFile(block.path) as file:
            table = file.read_row_group(block.row_group)
        mask = np.ones(table.num_rows, bool)
        mask[list(block.without)] = False
        batch = pa.RecordBatch.from_pydict(
            {name: _whole(table.column(name).filter(pa.array(mask))) for name in table.column_names},
            schema=table.schema,
        )
        known = self.tags.id is not None and self.tags.id in batch.schema.names
        return _Rows(batch, None, _as_texts(batch.column(self.tags.id)).to_pylist() if known else None)

    def _check_consent(self, raw: RawBatch, mask: pa.Array) -> None:
        at = pc.index(mask, False).as_py()
        if at >= 0:
            problem = f"there is no consent to {self.tags.purpose}"
            raise self.canonical.refuse(
                raw, at, problem, "remove the row, or import with without_consent=drop", self.tags.consent
            )

    def _splits(self, block: Block, hashes: U64) -> npt.NDArray[np.uint8]:
        if isinstance(block, StoredRows):
            return np.full(len(hashes), SPLITS.index(block.split), np.uint8)
        return choose_splits(hashes, self.bounds)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return found if isinstance(found, pa.Array) else pa.concat_arrays(column.chunks)


def _pick(values: list[Any] | None, keep: list[bool]) -> list[Any] | None:
    return None if values is None else [value for value, kept in zip(values, keep, strict=True) if kept]


def _to_hashes(keys: list[bytes]) -> U64:
    return np.frombuffer(b"".join(keys), ">u8").astype(np.uint64)


def _contents(batch: pa.RecordBatch) -> list[str]:
    """Each row's content as one text: its filled columns by name, whatever their order or type in the file."""
    parts = []
    for name in sorted(set(batch.schema.names) - {ROW, GROUP}):
        texts = _as_texts(batch.column(name))
        parts.append(pc.fill_null(pc.binary_join_element_wise(name, texts, "\x1e"), ""))
    joined: list[str] = pc.binary_join_element_wise(*parts, "\x1f").to_pylist()
    return joined


def _as_texts(column: pa.Array) -> pa.Array:
    if pa.types.is_string(column.type):
        return column
    if not pa.types.is_nested(column.type):
        try:
            return column.cast(pa.string())
        except pa.ArrowException:
            pass
    values = column.to_pylist()
    return pa.array([None if v is None else msgspec.json.encode(v, enc_hook=str).decode() for v in values], pa.string())


def _scan(batch: pa.RecordBatch) -> PrivacyFindings:
    found = PrivacyFindings()
    for name in batch.schema.names:
        if name not in (ROW, GROUP, CONSENT, RETAIN_UNTIL):
            found.add(name, batch.column(name))
    return found


def _count_days(batch: pa.RecordBatch) -> Counter[str]:
    if RETAIN_UNTIL not in batch.schema.names:
        return Counter()
    counted = pc.value_counts(batch.column(RETAIN_UNTIL).cast(pa.string()))
    days = zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True)
    return Counter({day or "": count for day, count in days})
