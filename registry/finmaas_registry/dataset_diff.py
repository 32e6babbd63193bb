"""What changed between two versions of a dataset: rows compared by the digests of their indexes, without reading them.

A row is the same row when its id is (where both versions were imported with one), else when its question is. Copies are
counted: a row that was there twice and is there once has been removed once. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finmaas_registry.row_index import CONTENT, ID, TEXT, RowIndex
from finmaas_registry.splits import SPLITS

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
_SPREAD, _COPY = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


@dataclass(frozen=True)
class RowDiff:
    """Rows by number: `removed` and `before` of the old version, `added`, `after` and `moved` of the new one.

    `before` and `after` have the same keys in the same order: rows that changed. `moved` rows are the same in another
    split.
    """

    by: str
    added: I64
    removed: I64
    before: I64
    after: I64
    moved: I64
    same: int


def diff_rows(old: RowIndex, old_splits: Mapping[str, int], new: RowIndex, new_splits: Mapping[str, int]) -> RowDiff:
    """Compares two versions whose indexes have the same key."""
    by = ID if old.has_ids and new.has_ids else TEXT
    old_keys, new_keys = old.by_row(by), new.by_row(by)
    old_rows, new_rows = _rows(old_keys, old), _rows(new_keys, new)
    gone, come = ~np.isin(old_rows, new_rows), ~np.isin(new_rows, old_rows)
    old_left, new_left = _number(old_keys, gone), _number(new_keys, come)
    _, at_old, at_new = np.intersect1d(old_left, new_left, return_indices=True)
    gone_rows, come_rows = np.flatnonzero(gone), np.flatnonzero(come)
    order = np.argsort(come_rows[at_new], kind="stable")
    before, after = gone_rows[at_old][order], come_rows[at_new][order]
    return RowDiff(
        by=by,
        added=np.setdiff1d(come_rows, after),
        removed=np.setdiff1d(gone_rows, before),
        before=before,
        after=after,
        moved=_moved(old_rows, _split_of(old_splits), new_rows, _split_of(new_splits)),
        same=int((~come).sum()),
    )


def diff_schemas(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Columns that came, went, or have another type."""
    before = {column["name"]: column["type"] for column in old}
    after = {column["name"]: column["type"] for column in new}
    return {
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "changed": [
            {"name": name, "before": before[name], "after": kind}
            for name, kind in after.items()
            if before.get(name, kind) != kind
        ],
    }


def _rows(keys: U64, index: RowIndex) -> U64:
    """One number for each row's key, content and number among its copies."""
    return _count_copies(keys * _SPREAD ^ index.by_row(CONTENT))


def _number(keys: U64, mask: npt.NDArray[np.bool_]) -> U64:
    return _count_copies(keys[mask])


def _count_copies(values: U64) -> U64:
    """The values, those that occur again made distinct by how many came before."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, bool)
    places = np.arange(len(ordered))
    numbers = places - np.maximum.accumulate(np.where(is_first, places, 0))
    found = np.empty_like(values)
    found[order] = ordered + numbers.astype(np.uint64) * _COPY
    return found


def _split_of(splits: Mapping[str, int]) -> npt.NDArray[np.uint8]:
    return np.repeat(np.arange(len(SPLITS), dtype=np.uint8), [splits.get(split, 0) for split in SPLITS])


def _moved(old: U64, old_splits: npt.NDArray[np.uint8], new: U64, new_splits: npt.NDArray[np.uint8]) -> I64:
    _, at_old, at_new = np.intersect1d(old, new, return_indices=True)
    found: I64 = np.sort(at_new[old_splits[at_old] != new_splits[at_new]])
    return found
