from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finmaas_core.errors import InvalidInput
from finmaas_registry.blocks import (
    MAX_BLOCK_BYTES,
    SMALL_TENSOR_BYTES,
    WHOLE_BYTES,
    Block,
    Span,
    make_recipe,
    plan_blocks,
    plan_file,
)

MIB = 1 << 20


def write_safetensors(path: Path, tensors: dict[str, bytes]) -> Path:
    header, at = {}, 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [at, at + len(data)]}
        at += len(data)
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + b"".join(tensors.values()))
    return path


def digests(path: Path) -> list[tuple[str, int]]:
    data = path.read_bytes()
    spans = plan_file(path)
    assert [span.start for span in spans] == [sum(s.size for s in spans[:at]) for at in range(len(spans))]
    assert sum(span.size for span in spans) == len(data)
    return [(hashlib.sha256(data[span.start : span.start + span.size]).hexdigest(), span.size) for span in spans]


def bytes_to_send(old: Path, new: Path) -> int:
    known = {digest for digest, _ in digests(old)}
    return sum(size for digest, size in digests(new) if digest not in known)


class TestSafetensors:
    def test_one_changed_tensor_is_all_that_differs(self, tmp_path: Path) -> None:
        tensors = {f"layer.{n}": os.urandom(MIB) for n in range(20)}
        old = write_safetensors(tmp_path / "old.safetensors", tensors)
        new = write_safetensors(tmp_path / "new.safetensors", {**tensors, "layer.7": os.urandom(MIB)})
        assert bytes_to_send(old, new) == MIB

    def test_small_tensors_share_a_block(self, tmp_path: Path) -> None:
        tensors = {f"norm.{n:04}": os.urandom(2048) for n in range(2000)} | {"large": os.urandom(MIB)}
        found = digests(write_safetensors(tmp_path / "m.safetensors", tensors))
        assert 3 <= len(found) <= 10
        assert max(size for _, size in found) <= 5 * SMALL_TENSOR_BYTES

    def test_a_large_tensor_is_cut_further(self) -> None:
        size = 3 * MAX_BLOCK_BYTES + 5
        head = json.dumps({"x": {"dtype": "U8", "shape": [size - 100], "data_offsets": [0, size - 100]}}).encode()
        head = head.ljust(92)
        start = struct.pack("<Q", 92) + head
        spans = plan_blocks("m.safetensors", size, lambda at, limit: start[at : at + limit])
        assert [span.size for span in spans] == [100, MAX_BLOCK_BYTES, MAX_BLOCK_BYTES, MAX_BLOCK_BYTES - 95]

    def test_a_broken_one_is_cut_like_any_file(self) -> None:
        spans = plan_blocks("m.safetensors", WHOLE_BYTES + 1, lambda _at, limit: b"\xff" * limit)
        assert spans == [Span(0, WHOLE_BYTES + 1)]


class TestParquet:
    def write(self, path: Path, rows: list[str]) -> Path:
        table = pa.table({"id": [hashlib.md5(row.encode()).hexdigest() for row in rows], "text": rows})
        pq.write_table(table, path, use_content_defined_chunking=True, compression="zstd", use_dictionary=False)
        return path

    def test_rows_put_in_the_middle_leave_most_pages_as_they_were(self, tmp_path: Path) -> None:
        rows = [f"row {n} {hashlib.sha256(str(n).encode()).hexdigest() * 3}" for n in range(60_000)]
        old = self.write(tmp_path / "old.parquet", rows)
        new = self.write(tmp_path / "new.parquet", [*rows[:30_000], "one more", "and another", *rows[30_000:]])
        assert len(digests(old)) > 8
        assert bytes_to_send(old, new) < 0.4 * new.stat().st_size

    def test_without_pages_it_is_cut_like_any_file(self, tmp_path: Path) -> None:
        path = tmp_path / "not.parquet"
        path.write_bytes(os.urandom(WHOLE_BYTES + 5))
        assert plan_file(path) == [Span(0, WHOLE_BYTES + 5)]


class TestOther:
    @given(size=st.integers(0, 5 * MAX_BLOCK_BYTES))
    def test_spans_cover_the_file(self, size: int) -> None:
        spans = plan_blocks("x.bin", size, lambda _at, limit: b"\0" * limit)
        assert sum(span.size for span in spans) == size
        assert all(span.size <= MAX_BLOCK_BYTES for span in spans)


class TestRecipe:
    def test_finds_the_block_of_an_offset(self) -> None:
        recipe = make_recipe("f" * 64, [Block("a" * 64, 3), Block("b" * 64, 4)])
        assert recipe.size == 7
        assert [(block.digest[0], at) for block, at in recipe.from_offset(0)] == [("a", 0), ("b", 0)]
        assert [(block.digest[0], at) for block, at in recipe.from_offset(2)] == [("a", 2), ("b", 0)]
        assert [(block.digest[0], at) for block, at in recipe.from_offset(3)] == [("b", 0)]
        assert [*recipe.from_offset(7)] == []

    @pytest.mark.parametrize("blocks", [[], [Block("a" * 64, 0)], [Block("f" * 64, 3)], [Block("../x", 3)]])
    def test_refuses(self, blocks: list[Block]) -> None:
        with pytest.raises(InvalidInput):
            make_recipe("f" * 64, blocks)
