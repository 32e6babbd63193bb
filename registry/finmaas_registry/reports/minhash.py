"""MinHash signatures of sets of hashes, folded into band keys. Pure; vectorised over rows.

64 permutations in 16 bands of 4: two sets of Jaccard similarity s share a band with probability 1 - (1 - s^4)^16, which
is 0.9998 at 0.8 and 0.12 at 0.3. Our own, since rensa hands its signatures out only as Python lists, at 10 µs a row;
the tests hold its estimates against rensa's.
"""

from __future__ import annotations

import numpy as np

from finmaas_registry.reports.shingles import I64, U32, Shingles

BANDS, ROWS_PER_BAND = 16, 4
PERMUTATIONS = BANDS * ROWS_PER_BAND
_BLOCK = 32_768  # hashes at a time: three passes over them stay in the processor's cache
_random = np.random.default_rng(20_261_125)
_XORS = _random.integers(0, 1 << 32, PERMUTATIONS, np.uint32)
_FACTORS = _random.integers(0, 1 << 32, PERMUTATIONS, np.uint32) | np.uint32(1)
_FOLD = _random.integers(0, 1 << 63, ROWS_PER_BAND, np.uint64) | np.uint64(1)


def make_signatures(sets: Shingles) -> U32:
    """The signature of each row, [permutations, rows]; zeros where a row has no hash."""
    counts = sets.counts
    found = np.zeros((PERMUTATIONS, len(counts)), np.uint32)
    widths = np.where(counts <= 64, -(-counts // 4) * 4, 1 << np.ceil(np.log2(np.maximum(counts, 1))).astype(np.int64))
    for width in np.unique(widths[widths > 0]).tolist():
        rows = np.flatnonzero(widths == width)
        step = max(1, _BLOCK // width)
        for at in range(0, len(rows), step):
            part = rows[at : at + step]
            found[:, part] = _sign(_padded(sets, part, width))
    return found


def make_band_keys(signatures: U32) -> U32:
    """One key a band and row, [bands, rows]: equal keys mean equal signatures in that band, but for rare accidents."""
    bands = signatures.reshape(BANDS, ROWS_PER_BAND, -1).astype(np.uint64)
    bands *= _FOLD[None, :, None]
    keys: U32 = (bands.sum(axis=1, dtype=np.uint64) >> np.uint64(32)).astype(np.uint32)
    return keys


def _padded(sets: Shingles, rows: I64, width: int) -> U32:
    """The hashes of rows as [width, rows]; short ones repeat their last, which changes no minimum."""
    last = sets.counts[rows] - 1
    places = np.minimum(np.arange(width)[:, None], last[None, :]) + sets.offsets[rows][None, :]
    found: U32 = sets.values[places]
    return found


def _sign(hashes: U32) -> U32:
    room = np.empty_like(hashes)
    found = np.empty((PERMUTATIONS, hashes.shape[1]), np.uint32)
    for number in range(PERMUTATIONS):
        np.bitwise_xor(hashes, _XORS[number], out=room)
        np.multiply(room, _FACTORS[number], out=room)
        room.min(axis=0, out=found[number])
    return found
