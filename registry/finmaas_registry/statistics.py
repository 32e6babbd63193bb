"""Figures about a dataset, gathered while it streams by: splits, labels, lengths, duplicates."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from finmaas_registry.shapes import PARTS, Layout, Shape
from finmaas_registry.splits import SPLITS, Fractions

U64 = npt.NDArray[np.uint64]
MAX_LABELS = 1000
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class Gathered:
    """Counts over all rows; memory grows with distinct labels and lengths, and by 8 bytes a row."""

    def __init__(self, layout: Layout) -> None:
        self._shape = layout.shape
        self._parts = tuple(layout.sources)
        self._question = next(iter(PARTS[layout.shape]))
        self._labels: dict[str, Counter[str]] = {}
        self._lengths: Counter[int] = Counter()
        # Python's own 64-bit hashes: good within one process and those forked from it; counting needs no more.
        self._hashes = array("q")
        self._groups: list[U64] = []
        self.splits: dict[str, int] = dict.fromkeys(SPLITS, 0)

    @property
    def rows(self) -> int:
        return sum(self.splits.values())

    def add(self, batch: pa.RecordBatch, groups: U64, splits: npt.NDArray[np.uint8]) -> None:
        """Counts a batch whose rows were assigned to splits (indices into SPLITS)."""
        for name, count in zip(SPLITS, np.bincount(splits, minlength=len(SPLITS)).tolist(), strict=True):
            self.splits[name] += count
        self._groups.append(groups)
        parts = [batch.column(part) for part in self._parts]
        if self._shape is Shape.CHAT:
            chats = parts[0].to_pylist()
            self._hashes.extend([hash(tuple((t["role"], t["content"]) for t in chat)) for chat in chats])
            self._lengths.update(sum(len(turn["content"]) for turn in chat) for chat in chats)
            return
        self._hashes.extend(map(hash, zip(*(part.to_pylist() for part in parts), strict=True)))
        counts = pc.value_counts(pc.utf8_length(batch.column(self._question)))
        self._lengths.update(dict(zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True)))
        if self._shape is Shape.CLASSIFICATION:
            self._count_labels(batch.column("label"), pa.array(splits))

    def merge(self, other: Gathered) -> None:
        """Adds what was counted elsewhere, of the same layout."""
        for name, count in other.splits.items():
            self.splits[name] += count
        self._groups.extend(other._groups)
        self._hashes.extend(other._hashes)
        self._lengths.update(other._lengths)
        for split, counter in other._labels.items():
            self._labels.setdefault(split, Counter()).update(counter)

    def as_json(self, fractions: Fractions) -> dict[str, Any]:
        """The statistics of the whole set, with warnings that a reader should see."""
        distinct = _count_distinct(np.frombuffer(self._hashes, np.int64))
        found: dict[str, Any] = {
            "rows": self.rows,
            "splits": self.splits,
            "groups": self._count_groups(),
            "duplicates": self.rows - distinct,
            "text_chars": _describe(self._lengths),
            "warnings": self._warnings(fractions),
        }
        if self._shape is Shape.CLASSIFICATION:
            found |= self._label_figures()
        return found

    def _count_groups(self) -> int:
        return _count_distinct(np.concatenate(self._groups)) if self._groups else 0

    def _count_labels(self, labels: pa.Array, splits: pa.Array) -> None:
        for index, split in enumerate(SPLITS):
            counted = pc.value_counts(labels.filter(pc.equal(splits, pa.scalar(index, pa.uint8()))))
            counter = self._labels.setdefault(split, Counter())
            for value, count in zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True):
                counter[value] += count

    def _label_figures(self) -> dict[str, Any]:
        total: Counter[str] = Counter()
        for counter in self._labels.values():
            total.update(counter)
        ordered = sorted(total.items(), key=lambda item: (-item[1], item[0]))[:MAX_LABELS]
        return {"label_count": len(total), "labels": dict(ordered)}

    def _warnings(self, fractions: Fractions) -> list[str]:
        empty = [split for split, count in self.splits.items() if count == 0 and fractions.of(split) > 0]
        groups = self._count_groups() if empty else 0
        said = [
            f"the {split} split is empty: {self.rows} rows form {groups} groups, too few for a share of "
            f"{fractions.of(split):g}; import more rows, or give other `splits`"
            for split in empty
        ]
        train = self._labels.get("train", Counter())
        unseen = sorted({label for counter in self._labels.values() for label in counter} - set(train))
        if unseen:
            more = ", …" if len(unseen) > 5 else ""
            said.append(f"{len(unseen)} labels have no row in train: {', '.join(unseen[:5])}{more}; add rows of them")
        return said


def _count_distinct(values: npt.NDArray[Any]) -> int:
    """By sorting, which for a million numbers takes a tenth of the time of numpy's unique."""
    ordered = np.sort(values)
    return int((ordered[1:] != ordered[:-1]).sum()) + bool(len(ordered))


def _describe(lengths: Counter[int]) -> dict[str, float]:
    total = sum(lengths.values())
    ordered = sorted(lengths.items())
    figures: dict[str, float] = {
        "min": ordered[0][0],
        "mean": round(sum(length * count for length, count in ordered) / total, 1),
    }
    for quantile in QUANTILES:
        figures[f"p{round(quantile * 100)}"] = _quantile(ordered, quantile * (total - 1))
    return figures | {"max": ordered[-1][0]}


def _quantile(ordered: list[tuple[int, int]], rank: float) -> int:
    """The value at a rank (counted from 0), of (value, count) pairs in order."""
    passed = 0
    for value, count in ordered:
        passed += count
        if passed > rank:
            return value
    return ordered[-1][0]
