from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finmaas_registry.dataset_diff import RowDiff, diff_rows, diff_schemas
from finmaas_registry.row_index import RowIndex, derive_key, write_index

KEY = derive_key("pepper", "ten_1")
Row = tuple[int, int]  # key, content


def index(folder: Path, name: str, rows: list[Row], *, by_id: bool = False) -> RowIndex:
    keys, contents = (np.array(values, np.uint64) for values in (list(zip(*rows, strict=True)) or ([], [])))
    write_index(folder / name, KEY, keys, contents, keys if by_id else None)
    data = (folder / name).read_bytes()
    return RowIndex.open(lambda at, size: data[at : at + size])


def diff(folder: Path, old: list[Row], new: list[Row]) -> RowDiff:
    return diff_rows(index(folder, "old", old), {"train": len(old)}, index(folder, "new", new), {"train": len(new)})


ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=25)


class TestDiffRows:
    def test_tells_added_removed_and_changed(self, tmp_path: Path) -> None:
        found = diff(tmp_path, [(1, 10), (2, 20), (3, 30)], [(2, 21), (4, 40), (1, 10)])
        assert (found.added.tolist(), found.removed.tolist()) == ([1], [2])
        assert (found.before.tolist(), found.after.tolist(), found.same) == ([1], [0], 1)

    def test_copies_count(self, tmp_path: Path) -> None:
        found = diff(tmp_path, [(1, 10), (1, 10), (1, 10)], [(1, 10)])
        assert (len(found.removed), len(found.added), found.same) == (2, 0, 1)

    def test_a_row_that_went_to_another_split_moved(self, tmp_path: Path) -> None:
        old, new = index(tmp_path, "old", [(1, 1), (2, 2)]), index(tmp_path, "new", [(2, 2), (1, 1)])
        found = diff_rows(old, {"train": 1, "test": 1}, new, {"train": 1, "test": 1})
        assert (found.moved.tolist(), found.same) == ([0, 1], 2)

    def test_is_by_id_where_both_have_one(self, tmp_path: Path) -> None:
        one, other = index(tmp_path, "a", [(1, 1)], by_id=True), index(tmp_path, "b", [(1, 1)])
        assert diff_rows(one, {"train": 1}, one, {"train": 1}).by == "id"
        assert diff_rows(one, {"train": 1}, other, {"train": 1}).by == "text"

    @settings(max_examples=150, deadline=None)
    @given(ROWS, ROWS)
    def test_counts_are_those_of_multisets(
        self, tmp_path_factory: pytest.TempPathFactory, old: list[Row], new: list[Row]
    ) -> None:
        found = diff(tmp_path_factory.mktemp("diff"), old, new)
        gone, come = Counter(old) - Counter(new), Counter(new) - Counter(old)
        changed = (Counter(key for key, _ in gone.elements()) & Counter(key for key, _ in come.elements())).total()
        assert len(found.before) == len(found.after) == changed
        assert len(found.removed) == gone.total() - changed
        assert len(found.added) == come.total() - changed
        assert found.same == (Counter(old) & Counter(new)).total()
        assert [old[row][0] for row in found.before] == [new[row][0] for row in found.after]


class TestDiffSchemas:
    def test_tells_columns(self) -> None:
        old = [{"name": "a", "type": "string"}, {"name": "b", "type": "int64"}]
        new = [{"name": "b", "type": "double"}, {"name": "c", "type": "string"}]
        assert diff_schemas(old, new) == {
            "added": ["c"],
            "removed": ["a"],
            "changed": [{"name": "b", "before": "int64", "after": "double"}],
        }
