"""Packs of small blobs."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finmaas_core.errors import InvalidInput
from finmaas_registry.packs import PACK_BLOBS, PACK_BYTES, SMALL_BYTES, Packed, plan_packs, read_pack, write_pack


def pack_of(*data: bytes) -> bytes:
    return b"".join(write_pack(Packed(hashlib.sha256(one).hexdigest(), one) for one in data))


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_gives_back_what_was_packed(data: list[bytes]) -> None:
    assert [blob.data for blob in read_pack(pack_of(*data))] == data


@given(st.integers(1, 119))
def test_one_that_ends_early_is_refused(kept: int) -> None:
    whole = pack_of(b"a" * 20, b"b" * 28)
    assert len(whole) == 120
    if kept != 56:  # after the first blob it is a whole pack of one
        with pytest.raises(InvalidInput, match="in the middle"):
            read_pack(whole[:kept])


@given(st.integers(0, 119), st.integers(1, 255))
def test_a_changed_byte_is_seen(at: int, flip: int) -> None:
    whole = bytearray(pack_of(b"a" * 20, b"b" * 28))
    whole[at] ^= flip
    with contextlib.suppress(InvalidInput):
        assert not all(blob.is_whole for blob in read_pack(bytes(whole)))


def test_more_or_larger_than_a_pack_holds_is_refused() -> None:
    with pytest.raises(InvalidInput, match="a pack holds 500 blobs"):
        read_pack(pack_of(*(str(n).encode() for n in range(PACK_BLOBS + 1))))
    with pytest.raises(InvalidInput, match="put others one by one"):
        read_pack(pack_of(b"x" * (SMALL_BYTES + 1)))


@given(st.lists(st.integers(0, SMALL_BYTES), max_size=2000))
def test_packs_hold_every_blob_once_and_stay_small(sizes: list[int]) -> None:
    packs = [*plan_packs(sizes)]
    assert [number for pack in packs for number in pack] == [*range(len(sizes))]
    for pack in packs:
        assert 0 < len(pack) <= PACK_BLOBS
        assert sum(sizes[number] for number in pack) <= PACK_BYTES
