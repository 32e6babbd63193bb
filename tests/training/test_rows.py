from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from finmaas_training.rows import read_usable


class TestReadUsable:
    def test_leaves_out_what_a_job_may_not_read_today(self, tmp_path: Path) -> None:
        days = pa.array([date(2026, 5, 1), date(2026, 5, 2), None, None])
        table = pa.table({"text": list("abcd"), "_consent": ["*", "*", ";marketing;", "*"], "_retain_until": days})
        pq.write_table(table, tmp_path / "train.parquet")
        found, left_out = read_usable(tmp_path / "train.parquet", ["text"], date(2026, 5, 2))
        assert (found.to_pydict(), left_out) == ({"text": ["b", "d"]}, 2)
        assert read_usable(tmp_path / "train.parquet", ["text"], date(2026, 5, 3))[0].to_pydict() == {"text": ["d"]}

    def test_rows_without_tags_are_all_read(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"text": ["a"]}), tmp_path / "train.parquet")
        assert read_usable(tmp_path / "train.parquet")[1] == 0
