from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finmaas_core.errors import BadRow, InvalidInput
from finmaas_registry.readers import open_table
from finmaas_registry.readers.delimited import sniff_delimiter
from finmaas_registry.readers.table import Limits

Rows = list[tuple[Any, ...]]
NINE = dt.datetime(2026, 3, 1, 9)  # noqa: DTZ001 - Excel knows no time zones


def read(path: Path, limits: Limits | None = None) -> tuple[tuple[str, ...], list[int], Rows]:
    """Columns, lines and rows of a whole file."""
    table = open_table(path, path.name, limits)
    lines: list[int] = []
    rows: Rows = []
    for batch in table.batches:
        lines.extend(batch.lines)
        columns = [c.to_pylist() if isinstance(c, pa.Array) else list(c) for c in batch.columns.values()]
        rows.extend(zip(*columns, strict=True))
    return table.columns, lines, rows


def write(tmp_path: Path, name: str, content: bytes | str) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


class TestDelimited:
    @pytest.mark.parametrize("mark", [",", ";", "\t"])
    def test_finds_the_delimiter(self, tmp_path: Path, mark: str) -> None:
        path = write(tmp_path, "rows.csv", f"text{mark}label\na{mark}b\n")
        assert read(path) == (("text", "label"), [2], [("a", "b")])

    def test_looks_for_the_delimiter_outside_quotes(self) -> None:
        assert sniff_delimiter('"a,b,c";"d"\n') == ";"

    @pytest.mark.parametrize(
        ("encoding", "text"),
        [
            ("utf-8", "余额"),
            ("utf-8-sig", "余额"),
            ("gbk", "我的余额"),
            ("gb18030", "我的余额㐂"),
            ("utf-16", "余额 é"),
        ],
    )
    def test_reads_the_encodings_that_banks_use(self, tmp_path: Path, encoding: str, text: str) -> None:
        path = write(tmp_path, "rows.csv", f"text,label\r\n{text},查询\r\n".encode(encoding))
        assert read(path) == (("text", "label"), [2], [(text, "查询")])

    def test_lines_are_those_of_the_file(self, tmp_path: Path) -> None:
        path = write(tmp_path, "rows.csv", 'text,label\n"two\nlines",a\n\nlast,b\n')
        assert read(path)[1:] == ([2, 5], [("two\nlines", "a"), ("last", "b")])

    @pytest.mark.parametrize(
        ("content", "line", "message"),
        [
            ("text,label\na,b\nc\n", 3, "1 cells, the header has 2"),
            ("text,label\na,b,c\n", 2, "3 cells, the header has 2"),
            ('text,label\n"a"x,b\n', 2, "quoting is broken"),
            ('text,label\na,b\n"open,b\n', 3, "quoting is broken"),
            ("text,label\n" + "x" * 200 + ",b\n", 2, "200 characters, at most 100"),
        ],
    )
    def test_names_the_bad_line(self, tmp_path: Path, content: str, line: int, message: str) -> None:
        with pytest.raises(BadRow, match=message) as caught:
            read(write(tmp_path, "rows.csv", content), Limits(cell_chars=100))
        assert caught.value.details["line"] == line
        assert caught.value.message.startswith(f"rows.csv line {line}")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "is empty"),
            ("\n", "has no header"),
            ("text,text\na,b\n", "names 'text' more than once"),
            ("text,\na,b\n", "column 2 of the header has no name"),
        ],
    )
    def test_names_what_is_wrong_with_the_header(self, tmp_path: Path, content: str, message: str) -> None:
        with pytest.raises(InvalidInput, match=message):
            read(write(tmp_path, "rows.csv", content))

    @pytest.mark.parametrize(
        ("content", "line", "byte"),
        [
            ("text,label\n余额,a\n".encode() + b"\xff\n", 3, 21),
            (b"text,label\ncaf\xe9 au lait,a\n", 2, 15),
            ("text,label\n余额,余".encode()[:-1], 2, 19),
        ],
        ids=["in UTF-8", "Latin-1", "cut off"],
    )
    def test_names_the_byte_that_is_no_text(self, tmp_path: Path, content: bytes, line: int, byte: int) -> None:
        with pytest.raises(InvalidInput, match=f"rows.csv line {line}: byte {byte} ") as caught:
            read(write(tmp_path, "rows.csv", content))
        assert (caught.value.details["line"], caught.value.details["byte"]) == (line, byte)

    def test_batches_are_bounded_by_rows(self, tmp_path: Path) -> None:
        path = write(tmp_path, "rows.csv", "text,label\n" + "a,b\n" * 25)
        batches = open_table(path, path.name, Limits(batch_rows=10)).batches
        assert [len(batch.lines) for batch in batches] == [10, 10, 5]


class TestJsonl:
    def test_reads_values_of_any_kind(self, tmp_path: Path) -> None:
        path = write(tmp_path, "rows.jsonl", '{"text": "余额", "n": 1}\n\n{"text": "b", "more": [1]}\n')
        assert read(path) == (("text", "n", "more"), [1, 3], [("余额", 1, None), ("b", None, [1])])

    def test_reads_gbk_and_a_byte_order_mark(self, tmp_path: Path) -> None:
        for encoding in ("gbk", "utf-8-sig"):
            path = write(tmp_path, "rows.jsonl", '{"text": "查询余额"}\n'.encode(encoding))
            assert read(path)[2] == [("查询余额",)]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"text": "a"', "not valid JSON"),
            ('["a"]', "begins a JSON array"),
            ("3", "not a JSON object"),
            ('{"text": NaN}', "not valid JSON"),
            ('{"text": "' + "x" * 2000 + '"}', "line is longer"),
            ('{"": 1}', "one of its keys is empty"),
        ],
    )
    def test_names_the_bad_line(self, tmp_path: Path, line: str, message: str) -> None:
        path = write(tmp_path, "rows.jsonl", '{"text": "fine"}\n' + line + "\n")
        with pytest.raises(BadRow, match=f"rows.jsonl line 2.*{message}"):
            read(path, Limits(cell_chars=100))

    def test_only_empty_lines_are_no_rows(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="holds no row"):
            read(write(tmp_path, "rows.jsonl", "\n \n"))


class TestXlsx:
    def save(self, tmp_path: Path, rows: list[list[Any]]) -> Path:
        book = openpyxl.Workbook()
        for row in rows:
            book.worksheets[0].append(row)
        book.save(tmp_path / "rows.xlsx")
        return tmp_path / "rows.xlsx"

    def test_cells_become_text(self, tmp_path: Path) -> None:
        path = self.save(
            tmp_path,
            [["text", "label", "when"], ["余额", 1, dt.date(2026, 3, 1)], [], [True, 2.5, NINE]],
        )
        columns, lines, rows = read(path)
        assert (columns, lines) == (("text", "label", "when"), [2, 4])
        assert rows == [("余额", "1", "2026-03-01"), ("TRUE", "2.5", "2026-03-01T09:00:00")]

    def test_names_a_cell_outside_the_table(self, tmp_path: Path) -> None:
        with pytest.raises(BadRow, match=r"rows.xlsx row 3.*beyond the last named column"):
            read(self.save(tmp_path, [["text", "label"], ["a", "b"], ["a", "b", "c"]]))

    def test_refuses_what_is_no_workbook(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match=r"not an \.xlsx"):
            read(write(tmp_path, "rows.xlsx", "text,label\n"))

    def test_refuses_what_unpacks_to_too_much(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="unpacks to"):
            read(self.save(tmp_path, [["text"], ["a" * 5000]]), Limits(unpacked_bytes=1000))


class TestParquet:
    def test_keeps_types_and_counts_rows(self, tmp_path: Path) -> None:
        table = pa.table({"text": pa.array(["a", "b"]).dictionary_encode(), "n": [1, 2]})
        pq.write_table(table, tmp_path / "rows.parquet")
        assert read(tmp_path / "rows.parquet") == (("text", "n"), [1, 2], [("a", 1), ("b", 2)])

    @pytest.mark.parametrize("content", [b"text,label\n", b"PAR1broken"])
    def test_refuses_what_is_no_parquet(self, tmp_path: Path, content: bytes) -> None:
        with pytest.raises(InvalidInput, match="cannot be read as Parquet"):
            read(write(tmp_path, "rows.parquet", content))

    def test_a_table_without_rows_is_empty(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "rows.parquet")
        with pytest.raises(InvalidInput, match="holds no row"):
            read(tmp_path / "rows.parquet")


class TestOpenTable:
    @pytest.mark.parametrize(
        ("name", "advice"),
        [("rows.xls", "save it as .xlsx"), ("rows.json", "one JSON object a line"), ("rows", "give a")],
    )
    def test_says_which_formats_it_takes(self, tmp_path: Path, name: str, advice: str) -> None:
        with pytest.raises(InvalidInput, match=advice):
            open_table(write(tmp_path, name, "x"), name)
