"""Real files of banks and research, where FINMAAS_DATA says they lie: every table in it can be imported."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest

from finmaas_registry.dataset_import import ImportOptions, import_dataset
from finmaas_registry.store import MemoryStore

pytestmark = pytest.mark.integration

# file, columns to name, shape, rows (counted by the data's own README)
FILES = [
    ("banking77/banking77.csv", {}, "classification", 9143),
    ("cold_offensive_zh/cold.csv", {}, "classification", 5606),
    ("cfpb_complaints/complaints.jsonl", {}, "classification", 676),
    ("german_credit/german_credit_text.jsonl", {}, "classification", None),
    ("bank_marketing/bank_text.jsonl", {}, "classification", None),
    ("bank_marketing/bank.csv", {"text": "job", "label": "y"}, "classification", None),
    ("fintruthqa/fintruthqa.jsonl", {}, "instruction", 4218),
]


@pytest.mark.parametrize(("file", "columns", "shape", "rows"), FILES, ids=[file[0] for file in FILES])
def test_imports_as_it_is(
    real_data: Path, tmp_path: Path, file: str, columns: dict[str, Any], shape: str, rows: int | None
) -> None:
    path = real_data / file
    made = import_dataset(path, path.name, MemoryStore(), tmp_path, ImportOptions(**columns))
    assert made.shape == shape
    assert rows is None or made.rows == rows
    assert made.rows == sum(made.splits.values())


def test_every_format_gives_the_same_rows(real_data: Path, tmp_path: Path) -> None:
    """The Chinese set as CSV, GB18030 CSV, semicolons with BOM, XLSX and Parquet become equal sets."""
    source = real_data / "cold_offensive_zh" / "cold.csv"
    options = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(("label", "fine_grained_label"), "string"))
    table = pyarrow.csv.read_csv(source, convert_options=options).select(["text", "label", "topic"])
    # openpyxl would write a text that begins with = as a formula.
    rows = [table.column_names, *(list(row.values()) for row in table.to_pylist() if row["text"][0] != "=")]
    table = pyarrow.table(dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True)))
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    book = openpyxl.Workbook()
    for row in rows:
        book.worksheets[0].append(row)
    book.save(tmp_path / "rows.xlsx")
    (tmp_path / "gb.csv").write_bytes(_as_csv(rows, ",").encode("gb18030"))
    (tmp_path / "bom.csv").write_bytes(codecs.BOM_UTF8 + _as_csv(rows, ";").encode())
    texts = set()
    for name in ("rows.parquet", "rows.xlsx", "gb.csv", "bom.csv"):
        made = import_dataset(tmp_path / name, name, MemoryStore(), tmp_path / "scratch", ImportOptions())
        texts.add((made.rows, str(made.splits), str(made.stats)))
    assert len(texts) == 1


def _as_csv(rows: list[list[str]], delimiter: str) -> str:
    quoted = ([f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row] for row in rows)
    return "".join(delimiter.join(row) + "\n" for row in quoted)
