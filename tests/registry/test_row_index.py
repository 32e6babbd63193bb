from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finmaas_core.errors import Corrupt
from finmaas_registry.row_index import CONTENT, ID, TEXT, RowIndex, derive_key, key_digests, write_index

KEY = derive_key("pepper", "ten_1")


def reading(path: Path) -> RowIndex:
    data = path.read_bytes()
    return RowIndex.open(lambda at, size: data[at : at + size])


class TestRowIndex:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(0, 45))
    def test_finds_exactly_the_rows_with_a_value(
        self, tmp_path_factory: pytest.TempPathFactory, values: list[int], wanted: int
    ) -> None:
        path = tmp_path_factory.mktemp("index") / "i"
        hashes = np.array(values, np.uint64)
        write_index(path, KEY, hashes, hashes, hashes)
        (digest,) = key_digests(np.array([wanted], np.uint64), TEXT, KEY).tolist()
        assert reading(path).find(TEXT, digest) == [row for row, value in enumerate(values) if value == wanted]

    def test_reads_little_of_a_large_one(self, tmp_path: Path) -> None:
        hashes = np.random.default_rng(1).integers(0, 2**64, 300_000, np.uint64)
        hashes[100:3000] = hashes[5]
        write_index(tmp_path / "i", KEY, hashes, hashes, None)
        data = (tmp_path / "i").read_bytes()
        read: list[int] = []

        def read_range(at: int, size: int) -> bytes:
            read.append(size)
            return data[at : at + size]

        index = RowIndex.open(read_range)
        for row in (0, 77_000, 299_999):
            read.clear()
            (digest,) = key_digests(hashes[row : row + 1], TEXT, KEY).tolist()
            assert index.find(TEXT, digest) == [row]
            assert sum(read) < 200_000
        (digest,) = key_digests(hashes[5:6], TEXT, KEY).tolist()
        assert index.find(TEXT, digest) == [5, *range(100, 3000)]

    def test_another_key_or_kind_finds_nothing(self, tmp_path: Path) -> None:
        hashes = np.arange(100, dtype=np.uint64)
        write_index(tmp_path / "i", KEY, hashes, hashes, hashes)
        index = reading(tmp_path / "i")
        other = derive_key("pepper", "ten_2")
        assert all(not index.find(TEXT, digest) for digest in key_digests(hashes, TEXT, other).tolist())
        assert all(not index.find(TEXT, digest) for digest in key_digests(hashes, ID, KEY).tolist())

    def test_gives_digests_by_row(self, tmp_path: Path) -> None:
        text, content = np.array([9, 3, 7], np.uint64), np.array([1, 1, 2], np.uint64)
        write_index(tmp_path / "i", KEY, text, content, None)
        index = reading(tmp_path / "i")
        assert index.by_row(TEXT).tolist() == key_digests(text, TEXT, KEY).tolist()
        assert index.by_row(CONTENT).tolist() == key_digests(content, CONTENT, KEY).tolist()
        assert not index.has_ids

    def test_what_is_no_index_is_corrupt(self) -> None:
        with pytest.raises(Corrupt, match="row index"):
            RowIndex.open(lambda at, size: b"x" * size)
