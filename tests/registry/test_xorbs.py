"""The view of a file that Xet clients fetch: read back as they do."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finmaas_registry import xorbs
from finmaas_registry.xorbs import frame, framed_size, plain_start, plan_reconstruction

DATA = random.Random(5).randbytes(1000)
DIGEST = "d" * 64


@pytest.fixture(autouse=True, scope="module")
def _small_chunks() -> Iterator[None]:
    """Chunks of 16 bytes, 3 in a xorb."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xorbs, "CHUNK_BYTES", 16)
        patch.setattr(xorbs, "FRAME_BYTES", 24)
        patch.setattr(xorbs, "XORB_CHUNKS", 3)
        yield


def read_framed(data: bytes, start: int, end: int, step: int = 7) -> bytes:
    """A range of the framed form, from a store that gives `step` bytes at a time."""
    at = plain_start(start)
    chunks = [data[one : one + step] for one in range(at, len(data), step)]
    return b"".join(frame(chunks, len(data), start, end))


def unframe(framed: bytes) -> list[bytes]:
    """The chunks of whole frames, as the protocol's description of a xorb says."""
    chunks = []
    while framed:
        version, stored, scheme, plain = framed[0], framed[1:4], framed[4], framed[5:8]
        assert (version, scheme, stored) == (0, 0, plain)
        size = int.from_bytes(plain, "little")
        chunks.append(framed[8 : 8 + size])
        framed = framed[8 + size :]
    return chunks


def rebuild(data: bytes, start: int, end: int) -> bytes:
    """What a client does with the answer: fetch each term's range, take its chunks, cut the ends."""
    plan = plan_reconstruction(DIGEST, len(data), start, end, "http://here")
    whole = b""
    for term in plan["terms"]:
        (fetch,) = plan["fetch_info"][term["hash"]]
        assert (fetch["url"], fetch["range"]) == ("http://here", term["range"])
        chunks = unframe(read_framed(data, fetch["url_range"]["start"], fetch["url_range"]["end"] + 1))
        assert len(chunks) == term["range"]["end"] - term["range"]["start"] <= xorbs.XORB_CHUNKS
        assert sum(map(len, chunks)) == term["unpacked_length"]
        whole += b"".join(chunks)
    return whole[plan["offset_into_first_range"] :][: end - start]


@given(size=st.integers(1, 300), ends=st.tuples(st.integers(0, 299), st.integers(1, 300)))
def test_any_range_of_any_file_comes_back(size: int, ends: tuple[int, int]) -> None:
    start, end = min(ends[0], size - 1), min(ends[1], size)
    if start < end:
        assert rebuild(DATA[:size], start, end) == DATA[start:end]


@given(size=st.integers(1, 200), step=st.integers(1, 50), at=st.tuples(st.integers(0, 300), st.integers(0, 300)))
def test_a_range_of_the_framed_form_is_that_of_the_whole(size: int, step: int, at: tuple[int, int]) -> None:
    whole = read_framed(DATA[:size], 0, framed_size(size))
    assert len(whole) == framed_size(size)
    start, end = sorted(min(one, len(whole)) for one in at)
    if start < end:
        assert read_framed(DATA[:size], start, end, step) == whole[start:end]


def test_xorbs_of_two_files_have_different_names() -> None:
    names = [plan_reconstruction(digest * 64, 100, 0, 100, "u")["fetch_info"].keys() for digest in "ab"]
    assert not names[0] & names[1]
