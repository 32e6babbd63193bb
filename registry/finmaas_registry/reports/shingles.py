"""Texts as sets of word pairs, hashed: what near-duplicates are measured on. Arrow and numpy only, no loop over rows.

A word is a run of ASCII letters and digits; every character beyond ASCII is a word by itself, so Chinese is compared by
pairs of characters. A text of one word is the set of that word. Texts come normalised (`splits.normalise_text`).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

U32: TypeAlias = npt.NDArray[np.uint32]
U64: TypeAlias = npt.NDArray[np.uint64]
I64: TypeAlias = npt.NDArray[np.int64]

CHUNK_BYTES = 128 << 10  # of text at a time: what is computed on it stays in the processor's cache
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 1 << 64)
_FIRST, _LAST, _FINAL = np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9), np.uint64(0xD6E8FEB86659FD93)
_BREAK, _ASCII, _LEAD = 0, 1, 2
_KINDS = np.zeros(256, np.uint8)
for _char in b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz":
    _KINDS[_char] = _ASCII
_KINDS[0x80:0xC0] = 3  # goes on with a character
_KINDS[0xC0:] = _LEAD


class Shingles(NamedTuple):
    """Row i has the hashes `values[offsets[i]:offsets[i + 1]]`, repeats included; none for a text without a word."""

    values: U32
    offsets: I64

    @property
    def counts(self) -> I64:
        return np.diff(self.offsets)


def hash_word_pairs(texts: pa.Array) -> Shingles:
    """The hashed word pairs of each text of an Arrow string array without nulls."""
    if not len(texts):
        return join_counts([], [])
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    buffer = texts.buffers()[2]
    data = np.frombuffer(buffer, np.uint8) if buffer is not None else np.zeros(0, np.uint8)
    parts: list[U32] = []
    counts: list[I64] = []
    for first, last in _chunks(offsets):
        values, lengths = _hash_chunk(data[offsets[first] : offsets[last]], offsets[first : last + 1] - offsets[first])
        parts.append(values)
        counts.append(lengths)
    return join_counts(parts, counts)


def join_counts(values: list[U32], counts: list[I64]) -> Shingles:
    """One set of rows after the other as one."""
    lengths = np.concatenate([np.zeros(1, np.int64), *counts])
    return Shingles(np.concatenate(values) if values else np.zeros(0, np.uint32), np.cumsum(lengths))


def _chunks(offsets: I64) -> list[tuple[int, int]]:
    rows = len(offsets) - 1
    found, first = [], 0
    while first < rows:
        last = int(np.searchsorted(offsets, offsets[first] + CHUNK_BYTES, side="right")) - 1
        last = min(max(last, first + 1), rows)
        found.append((first, last))
        first = last
    return found


def _hash_chunk(data: npt.NDArray[np.uint8], offsets: I64) -> tuple[U32, I64]:
    kinds = _KINDS[data]
    starts = _word_starts(kinds, offsets[:-1])
    words = _hash_words(data, kinds, starts)
    first = np.searchsorted(starts, offsets)  # the number of each row's first word
    return _pair(words, first)


def _word_starts(kinds: npt.NDArray[np.uint8], rows: I64) -> I64:
    """Where words begin: at letters and digits after none, at each character beyond ASCII."""
    is_start = kinds == _LEAD
    ascii_here = kinds == _ASCII
    is_start[1:] |= ascii_here[1:] & ~ascii_here[:-1]
    inside = rows[rows < len(kinds)]
    is_start[inside] |= ascii_here[inside]
    return np.flatnonzero(is_start)


def _hash_words(data: npt.NDArray[np.uint8], kinds: npt.NDArray[np.uint8], starts: I64) -> U64:
    """A polynomial of each word's bytes modulo 2^64, from differences of running sums."""
    if not len(starts):
        return np.zeros(0, np.uint64)
    powers, inverses = _powers(len(data))
    terms = data.astype(np.uint64)
    terms += np.uint64(1)
    terms *= powers[: len(data)]
    terms[kinds == _BREAK] = 0
    sums = np.zeros(len(data) + 1, np.uint64)
    np.cumsum(terms, out=sums[1:])
    ends = np.append(starts[1:], len(data))
    words: U64 = (sums[ends] - sums[starts]) * inverses[starts]
    return words


def _pair(words: U64, first: I64) -> tuple[U32, I64]:
    """Each word with the next one of its row; a lone word with nothing."""
    count = np.diff(first)
    following = np.append(words[1:], np.uint64(0)) if len(words) else words
    is_last = np.zeros(len(words), bool)
    is_last[first[1:][count > 0] - 1] = True
    lone = first[:-1][count == 1]
    following[lone] = 0
    mixed = words * _FIRST + following * _LAST
    mixed ^= mixed >> np.uint64(29)
    hashed = ((mixed * _FINAL) >> np.uint64(32)).astype(np.uint32)
    keep = ~is_last
    keep[lone] = True
    return hashed[keep], np.where(count > 1, count - 1, count)


_known: tuple[U64, U64] = (np.ones(1, np.uint64), np.ones(1, np.uint64))


def _powers(length: int) -> tuple[U64, U64]:
    """Powers of the base and of its inverse modulo 2^64; kept, and grown for the first long text."""
    global _known
    if len(_known[0]) < length:
        size = max(length, 2 * CHUNK_BYTES)
        _known = _run_of(_BASE, size), _run_of(_INVERSE, size)
    return _known


def _run_of(base: int, size: int) -> U64:
    run = np.full(size, base, np.uint64)
    run[0] = 1
    return np.multiply.accumulate(run)
