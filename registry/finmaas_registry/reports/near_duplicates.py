"""Groups of rows whose texts are nearly the same: candidates by MinHash bands, each confirmed by its exact similarity.

While rows stream by, each block leaves its band keys and hashed word pairs in scratch. When all are there, a band at a
time is sorted; rows with equal keys are candidates, and those whose sets of word pairs have a Jaccard similarity of
THRESHOLD or more are joined. Memory grows by some 40 bytes a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finmaas_registry.reports.minhash import BANDS, make_band_keys, make_signatures
from finmaas_registry.reports.shingles import I64, U32, U64, Shingles, hash_word_pairs

THRESHOLD = 0.8
MAX_COMPARED = 4_000_000
"""Pairs that are compared at most: it bounds the time on data where nearly everything resembles everything."""
_PAIRS_AT_ONCE = 20_000


@dataclass(frozen=True)
class NearDuplicates:
    """`labels[row]` is the first row of its group, itself where nothing is near. Rows in the order they were added."""

    labels: I64
    compared: int
    is_complete: bool

    def groups(self) -> list[I64]:
        """The rows of each group of two or more, largest groups first."""
        order = np.argsort(self.labels, kind="stable")
        ordered = self.labels[order]
        cuts = np.flatnonzero(np.diff(ordered)) + 1
        sizes = np.diff(np.concatenate([[0], cuts, [len(order)]]))
        starts = np.concatenate([[0], cuts])
        large = np.flatnonzero(sizes > 1)
        large = large[np.argsort(-sizes[large], kind="stable")]
        return [order[starts[at] : starts[at] + sizes[at]] for at in large.tolist()]


def write_sketch(texts: pa.Array, path: Path) -> None:
    """Leaves what `find_near_duplicates` needs of a block's texts (normalised, without nulls) in a file."""
    sets = hash_word_pairs(texts)
    keys = make_band_keys(make_signatures(sets))
    with path.open("wb") as out:
        out.write(np.array([len(texts), len(sets.values)], np.int64).tobytes())
        out.write(sets.counts.astype(np.int64).tobytes())
        out.write(keys.tobytes())
        out.write(sets.values.tobytes())


def find_near_duplicates(paths: Sequence[Path], max_compared: int = MAX_COMPARED) -> NearDuplicates:
    """The groups among the rows of all blocks, in the order of the paths."""
    sketches = _Sketches(paths)
    labels = np.arange(sketches.rows, dtype=np.int64)
    compared, refused = 0, np.zeros(0, np.uint64)
    for band in range(BANDS):
        first, second = _candidates(sketches.band(band), sketches.has_words)
        apart = labels[first] != labels[second]
        pairs = (first[apart].astype(np.uint64) << np.uint64(32)) | second[apart].astype(np.uint64)
        pairs = np.setdiff1d(np.unique(pairs), refused, assume_unique=True)[: max_compared - compared]
        compared += len(pairs)
        first, second = (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)
        near = sketches.similarity(first, second) >= THRESHOLD
        _join(labels, first[near], second[near])
        refused = np.union1d(refused, pairs[~near])
    return NearDuplicates(labels, compared, compared < max_compared)


class _Sketches:
    """All blocks' sketches, mapped from their files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._maps = [np.memmap(path, np.uint8, "r") for path in paths]
        heads = [np.frombuffer(block[:16], np.int64) for block in self._maps]
        self._sizes = [int(head[0]) for head in heads]
        counts = [
            np.frombuffer(block[16 : 16 + 8 * n], np.int64) for block, n in zip(self._maps, self._sizes, strict=True)
        ]
        self._counts = np.concatenate(counts) if counts else np.zeros(0, np.int64)
        self._starts = np.cumsum([0, *self._sizes])  # each block's first row
        self._offsets = [np.concatenate([np.zeros(1, np.int64), np.cumsum(one)]) for one in counts]
        self.rows = len(self._counts)
        self.has_words = self._counts > 0

    def band(self, number: int) -> U32:
        parts = []
        for block, rows in zip(self._maps, self._sizes, strict=True):
            at = 16 + 8 * rows + 4 * rows * number
            parts.append(np.frombuffer(block[at : at + 4 * rows], np.uint32))
        return np.concatenate(parts) if parts else np.zeros(0, np.uint32)

    def similarity(self, first: I64, second: I64) -> npt.NDArray[np.float64]:
        """The exact Jaccard similarity of each pair's sets."""
        found = [
            self._compare(first[at : at + _PAIRS_AT_ONCE], second[at : at + _PAIRS_AT_ONCE])
            for at in range(0, len(first), _PAIRS_AT_ONCE)
        ]
        return np.concatenate(found) if found else np.zeros(0)

    def _compare(self, first: I64, second: I64) -> npt.NDArray[np.float64]:
        rows, places = np.unique(np.concatenate([first, second]), return_inverse=True)
        sets = _distinct(self._gather(rows))
        one, other = places[: len(first)], places[len(first) :]
        sizes = sets.counts[one] + sets.counts[other]
        merged = np.concatenate([_tagged(sets, one), _tagged(sets, other)])
        merged.sort()
        again = merged[1:][merged[1:] == merged[:-1]] >> np.uint64(32)
        shared = np.bincount(again.astype(np.int64), minlength=len(first))
        found: npt.NDArray[np.float64] = shared / np.maximum(sizes - shared, 1)
        return found

    def _gather(self, rows: I64) -> Shingles:
        """The hashes of some rows, which are in order."""
        values: list[U32] = []
        cuts = np.searchsorted(rows, self._starts)
        for number, block in enumerate(self._maps):
            wanted = rows[cuts[number] : cuts[number + 1]] - self._starts[number]
            if len(wanted):
                size = self._sizes[number]
                hashes = np.frombuffer(block[16 + 8 * size + 4 * BANDS * size :], np.uint32)
                offsets = self._offsets[number]
                values.append(hashes[_spans(offsets[wanted], offsets[wanted + 1] - offsets[wanted])])
        counts = self._counts[rows]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        return Shingles(np.concatenate(values) if values else np.zeros(0, np.uint32), offsets)


def _candidates(keys: U32, usable: npt.NDArray[np.bool_]) -> tuple[I64, I64]:
    """Pairs of rows with equal keys: each with the one before it, and with the first of its kind."""
    rows = np.flatnonzero(usable)
    packed = (keys[rows].astype(np.uint64) << np.uint64(32)) | rows.astype(np.uint64)
    packed.sort()
    key, row = packed >> np.uint64(32), (packed & np.uint64(0xFFFFFFFF)).astype(np.int64)
    same = np.flatnonzero(key[1:] == key[:-1]) + 1
    starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]])) if len(key) else np.zeros(0, np.int64)
    heads = starts[np.searchsorted(starts, same, side="right") - 1] if len(same) else same
    first = np.concatenate([row[same - 1], row[heads]])
    second = np.concatenate([row[same], row[same]])
    return first, second


def _join(labels: I64, first: I64, second: I64) -> None:
    """Unites the groups of each pair; afterwards every row points at its group's first row."""
    while True:
        one, other = labels[first], labels[second]
        apart = one != other
        if not apart.any():
            return
        np.minimum.at(labels, np.maximum(one, other)[apart], np.minimum(one, other)[apart])
        while not np.array_equal(further := labels[labels], labels):
            labels[:] = further


def _distinct(sets: Shingles) -> Shingles:
    """Each row's hashes once."""
    tagged = np.unique(_tagged(sets, np.arange(len(sets.counts))))
    counts = np.bincount((tagged >> np.uint64(32)).astype(np.int64), minlength=len(sets.counts))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    return Shingles((tagged & np.uint64(0xFFFFFFFF)).astype(np.uint32), offsets)


def _tagged(sets: Shingles, rows: I64) -> U64:
    """The hashes of rows, each with its place in `rows` in the upper half."""
    counts = sets.counts[rows]
    values = sets.values[_spans(sets.offsets[rows], counts)].astype(np.uint64)
    tags = np.repeat(np.arange(len(rows), dtype=np.uint64), counts)
    found: U64 = (tags << np.uint64(32)) | values
    return found


def _spans(starts: I64, counts: I64) -> I64:
    """start, start + 1, … of each span, one span after the other."""
    before = np.cumsum(counts) - counts
    found: I64 = np.repeat(starts - before, counts) + np.arange(counts.sum())
    return found
