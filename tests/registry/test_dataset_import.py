from __future__ import annotations

import errno
import io
import json
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finmaas_core.errors import BadRow, InvalidInput, StoreFull
from finmaas_registry.dataset_import import (
    ImportedDataset,
    ImportOptions,
    import_dataset,
    scratch_folder,
    store_converted,
    sweep_scratch,
)
from finmaas_registry.import_process import convert_apart
from finmaas_registry.preview import read_rows
from finmaas_registry.readers.table import Limits
from finmaas_registry.reports.privacy import find_personal
from finmaas_registry.splits import SPLITS, normalise_text, parse_fractions
from finmaas_registry.store import MemoryStore
from finmaas_registry.tags import Tags

Rows = list[dict[str, Any]]
ANSWERED = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


class Importer:
    """Imports text as a file and reads back what was stored."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scratch = folder / "scratch"
        self.store = MemoryStore()

    def __call__(self, name: str, content: str | bytes, **options: Any) -> ImportedDataset:
        path = self.folder / "body"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return import_dataset(path, name, self.store, self.scratch, ImportOptions(**options))

    def table(self, made: ImportedDataset, split: str) -> pa.Table:
        digest = next(file.sha256 for file in made.manifest.files if file.path == f"data/{split}.parquet")
        return pq.read_table(io.BytesIO(b"".join(self.store.open(digest))))

    def rows(self, made: ImportedDataset) -> Rows:
        found = [row for split in SPLITS for row in self.table(made, split).to_pylist()]
        return sorted(found, key=lambda row: int(row["_row"]))


@pytest.fixture
def importer(tmp_path: Path) -> Importer:
    return Importer(tmp_path)


def jsonl(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


ALL_TRAIN = parse_fractions("1,0,0")


class TestImportDataset:
    def test_keeps_rows_lines_and_other_columns(self, importer: Importer) -> None:
        made = importer("rows.csv", "Category,when,text\nrefund,May,退款 please\ncard,June,my card\n")
        assert (made.shape, made.rows, made.source) == ("classification", 2, "rows.csv")
        rows = importer.rows(made)
        assert [(row["text"], row["label"], row["when"], row["_row"]) for row in rows] == [
            ("退款 please", "refund", "May", 2),
            ("my card", "card", "June", 3),
        ]
        assert [column["name"] for column in made.schema] == ["text", "label", "when", "_row", "_group"]

    def test_equal_content_is_an_equal_version(self, importer: Importer) -> None:
        content = "text,label\n" + "".join(f"row {number},l{number % 3}\n" for number in range(500))
        first = importer("rows.csv", content, limits=Limits(batch_rows=7, block_bytes=200))
        assert (
            importer("other-name.csv", content, limits=Limits(batch_rows=7, block_bytes=200)).manifest == first.manifest
        )
        assert importer("rows.csv", content + "one more,l1\n").manifest != first.manifest

    def test_batches_do_not_show_in_the_result(self, importer: Importer) -> None:
        content = jsonl(*({"text": f"row {n}", "label": "a", "extra": n if n % 50 else None} for n in range(300)))
        small = importer("rows.jsonl", content, limits=Limits(batch_rows=7, block_bytes=200))
        assert importer("rows.jsonl", content).manifest == small.manifest

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.text(st.sampled_from("aAｂ \tß"), min_size=1, max_size=4), min_size=1, max_size=40))
    def test_rows_of_a_group_never_part(self, tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
        importer = Importer(tmp_path_factory.mktemp("import"))
        texts = [f"x{text}" for text in texts]
        rows = [{"text": text, "label": str(n)} for n, text in enumerate([*texts, *(f"anchor {n}" for n in range(30))])]
        made = importer("rows.jsonl", jsonl(*rows))
        homes: dict[str, set[str]] = {}
        for split in SPLITS:
            for text in importer.table(made, split)["text"].to_pylist():
                homes.setdefault(normalise_text(text), set()).add(split)
        assert all(len(splits) == 1 for splits in homes.values())
        assert sum(made.splits.values()) == len(rows)

    def test_a_given_group_holds_together(self, importer: Importer) -> None:
        rows = [{"text": f"t{n}", "label": "a", "phrasing": f"p{n % 20}"} for n in range(400)]
        made = importer("rows.jsonl", jsonl(*rows), group="phrasing")
        homes: dict[str, set[str]] = {}
        for split in SPLITS:
            for phrasing in importer.table(made, split)["phrasing"].to_pylist():
                homes.setdefault(phrasing, set()).add(split)
        assert len(homes) == 20
        assert all(len(splits) == 1 for splits in homes.values())

    def test_a_row_stays_in_its_split_when_more_come(self, importer: Importer) -> None:
        lines = [f"row {number},a\n" for number in range(300)]
        few, many = (importer("rows.csv", "text,label\n" + "".join(part)) for part in (lines[:100], lines[::-1]))
        for split in SPLITS:
            before = set(importer.table(few, split)["text"].to_pylist())
            assert before <= set(importer.table(many, split)["text"].to_pylist())

    def test_statistics(self, importer: Importer) -> None:
        content = "text,label\n" + "aaaa,x\n" * 3 + "bb,y\nAAAA,x\n"
        stats = importer("rows.csv", content, fractions=ALL_TRAIN).stats
        assert stats == {
            "rows": 5,
            "splits": {"train": 5, "validation": 0, "test": 0},
            "groups": 2,
            "duplicates": 2,
            "text_chars": {"min": 2, "mean": 3.6, "p5": 2, "p25": 4, "p50": 4, "p75": 4, "p95": 4, "p99": 4, "max": 4},
            "warnings": [],
            "label_count": 2,
            "labels": {"x": 4, "y": 1},
        }

    def test_says_when_a_tiny_set_leaves_a_split_empty(self, importer: Importer) -> None:
        warnings = importer("rows.csv", "text,label\na,x\n").stats["warnings"]
        assert [warning.split(":")[0] for warning in warnings] == [
            "the validation split is empty",
            "the test split is empty",
        ]

    def test_refuses_a_set_that_leaves_train_empty(self, importer: Importer) -> None:
        with pytest.raises(InvalidInput, match="none falls into train"):
            importer("rows.csv", "text,label\na,x\n", fractions=parse_fractions("0.0001,0.5,0.4999"))

    def test_other_columns_take_one_type_whatever_comes(self, importer: Importer) -> None:
        rows = [
            {"text": "a", "label": 1, "n": 1, "mixed": 1, "deep": {"x": [1]}, "none": None},
            {"text": "b", "label": True, "n": 2.5, "mixed": "two", "late": "x"},
            {"text": "c", "label": "z", "mixed": [3], "broken": "\ud800"},
        ]
        content = "".join(json.dumps(row).replace("\\ud800", "?") + "\n" for row in rows)
        made = importer("rows.jsonl", content, fractions=ALL_TRAIN, limits=Limits(batch_rows=1, block_bytes=1))
        types = {column["name"]: column["type"] for column in made.schema}
        assert types["n"] == "double"
        assert types["mixed"] == types["deep"] == types["none"] == types["late"] == "string"
        found = importer.rows(made)
        assert [row["label"] for row in found] == ["1", "true", "z"]
        assert [row["mixed"] for row in found] == ["1", "two", "[3]"]
        assert found[0]["deep"] == '{"x":[1]}'

    def test_a_column_that_bears_a_parts_name_is_kept(self, importer: Importer) -> None:
        made = importer("rows.csv", "text,label,intent\na,old,new\n", label="intent", fractions=ALL_TRAIN)
        (row,) = importer.rows(made)
        assert (row["label"], row["label_original"]) == ("new", "old")

    def test_instruction(self, importer: Importer) -> None:
        made = importer("rows.jsonl", jsonl({"instruction": "add", "output": "2"}), fractions=ALL_TRAIN)
        (row,) = importer.rows(made)
        assert (made.shape, row["instruction"], row["input"], row["output"]) == ("instruction", "add", "", "2")

    def test_preference(self, importer: Importer) -> None:
        row = {"prompt": "p", "chosen": "good", "rejected": "bad"}
        made = importer("rows.jsonl", jsonl(row), fractions=ALL_TRAIN)
        assert made.shape == "preference"
        assert importer.rows(made)[0].items() >= row.items()

    @pytest.mark.parametrize(
        "value",
        [
            ANSWERED,
            json.dumps(ANSWERED),
            [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}],
        ],
        ids=["messages", "as JSON text", "ShareGPT"],
    )
    def test_chat(self, importer: Importer, value: Any) -> None:
        made = importer("rows.jsonl", jsonl({"messages": value}), fractions=ALL_TRAIN)
        assert importer.rows(made)[0]["messages"] == ANSWERED

    def test_chat_from_parquet(self, importer: Importer, tmp_path: Path) -> None:
        pq.write_table(pa.table({"messages": [ANSWERED]}), tmp_path / "in.parquet")
        made = importer("rows.parquet", (tmp_path / "in.parquet").read_bytes(), fractions=ALL_TRAIN)
        assert importer.rows(made)[0]["messages"] == ANSWERED

    @pytest.mark.parametrize(
        ("name", "content", "line", "column", "message"),
        [
            ("r.csv", "text,label\na,x\n ,x\n", 3, "text", "it is empty"),
            ("r.csv", "text,kind\na,\n", 2, "kind", "it is empty"),
            ("r.jsonl", jsonl({"text": "a", "label": "x"}, {"text": "b"}), 2, "label", "it is empty"),
            ("r.jsonl", jsonl({"text": "a", "label": "x"}, {"text": {}, "label": "x"}), 2, "text", "holds a dict"),
            ("r.jsonl", '{"text": "\\ud800", "label": "x"}\n', 1, None, "not valid JSON"),
            ("r.jsonl", jsonl({"messages": []}), 1, "messages", "not a list of messages"),
            ("r.jsonl", jsonl({"messages": "{"}), 1, "messages", "not JSON"),
            ("r.jsonl", jsonl({"messages": ANSWERED[:1]}), 1, "messages", "last message is from user"),
            ("r.jsonl", jsonl({"messages": [{"role": "boss", "content": "x"}]}), 1, "messages", "role 'boss'"),
            ("r.jsonl", jsonl({"messages": [{"role": "assistant"}]}), 1, "messages", "no text as content"),
        ],
    )
    def test_a_bad_row_is_named_and_leaves_nothing(
        self, importer: Importer, name: str, content: str, line: int, column: str | None, message: str
    ) -> None:
        label = "kind" if "kind" in content.splitlines()[0] else None
        with pytest.raises(BadRow, match=message) as caught:
            importer(name, content, label=label)
        assert caught.value.details == {"file": name, "line": line, "column": column}
        assert [*importer.store.list()] == []
        assert [*importer.scratch.iterdir()] == []

    def test_a_bad_row_far_down_leaves_nothing(self, importer: Importer) -> None:
        with pytest.raises(BadRow, match=r"r\.csv line 1002"):
            importer("r.csv", "text,label\n" + "a,b\n" * 1000 + "c\n", limits=Limits(batch_rows=100, block_bytes=500))
        assert [*importer.store.list()] == []

    def test_a_header_alone_is_no_dataset(self, importer: Importer) -> None:
        with pytest.raises(InvalidInput, match="header but no row"):
            importer("r.csv", "text,label\n")

    def test_a_full_disk_is_named_and_leaves_nothing(self, importer: Importer, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(pa.ipc, "new_file", full)
        with pytest.raises(StoreFull, match="nothing was imported"):
            importer("r.csv", "text,label\na,b\n")
        assert [*importer.scratch.iterdir()] == []

    @settings(max_examples=150, deadline=None)
    @given(st.sampled_from(["r.csv", "r.jsonl", "r.parquet", "r.xlsx"]), st.binary(max_size=200))
    def test_no_bytes_break_it(self, tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes) -> None:
        importer = Importer(tmp_path_factory.mktemp("import"))
        with suppress(InvalidInput):
            importer(name, b"text,label\n" + content if name == "r.csv" else content)
        assert [*importer.scratch.iterdir()] == []


class TestBlocks:
    """Files read in blocks, and the reader from start to end, which takes over where a file is not plain."""

    @pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
    @pytest.mark.parametrize("block_bytes", [1, 64, 1000, 1 << 20])
    def test_cuts_do_not_show(self, importer: Importer, name: str, block_bytes: int) -> None:
        texts = ["plain", 'a "quoted" word', "two\nlines", "余额, 查询", " padded ", "crlf\r\nhere"] * 20
        if name == "r.csv":
            cells = ((text.replace('"', '""'), number) for number, text in enumerate(texts))
            content = "text,label\n" + "".join(f'"{text}",l{number % 3}\n' for text, number in cells)
        else:
            content = jsonl(*({"text": text, "label": f"l{n % 3}"} for n, text in enumerate(texts)))
            content = content.replace("\n", "\n\n", 3)
        made = importer(name, content, limits=Limits(block_bytes=block_bytes))
        whole = importer(name, "\ufeff" + content)  # a byte order mark: read from start to end
        assert made.manifest == whole.manifest
        assert (made.stats, made.report) == (whole.stats, whole.report)

    def test_a_lone_quote_does_not_deceive(self, importer: Importer) -> None:
        content = 'text,label\n5" pipe,a\n' + '"two\nlines",b\n' * 50
        made = importer("r.csv", content, fractions=ALL_TRAIN, limits=Limits(block_bytes=40))
        rows = importer.rows(made)
        assert [row["text"] for row in rows] == ['5" pipe', *["two\nlines"] * 50]
        assert [row["_row"] for row in rows[:3]] == [2, 3, 5]

    def test_another_encoding_far_down_is_read_as_a_whole(self, importer: Importer) -> None:
        content = ("text,label\n" + "ascii,a\n" * 200 + "查询余额，谢谢,b\n").encode("gb18030")
        made = importer("r.csv", content, fractions=ALL_TRAIN, limits=Limits(block_bytes=100))
        assert importer.rows(made)[-1]["text"] == "查询余额，谢谢"

    def test_the_first_bad_row_is_named_by_line(self, importer: Importer) -> None:
        content = jsonl(*({"text": f"t{n}", "label": "a"} for n in range(500))) + "\n{broken\n" + '{"text": ""}\n'
        with pytest.raises(BadRow, match=r"r\.jsonl line 502: it is not valid JSON"):
            importer("r.jsonl", content, limits=Limits(block_bytes=300))

    @pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
    def test_several_processes_give_the_same(self, importer: Importer, tmp_path: Path, name: str) -> None:
        rows = [
            {"text": f"how do I do thing {n}", "label": f"l{n % 7}", "phone": str(13800000000 + n)} for n in range(5000)
        ]
        head = "text,label,phone\n"
        content = jsonl(*rows) if name == "r.jsonl" else head + "".join(",".join(row.values()) + "\n" for row in rows)
        alone = importer(name, content)
        with scratch_folder(tmp_path / "apart") as folder:
            options = ImportOptions(workers=2, limits=Limits(block_bytes=20_000))
            apart = store_converted(convert_apart(name, folder, options, path=importer.folder / "body"), importer.store)
        assert apart == alone

    def test_what_the_other_process_says_does_not_hold_it_up(
        self, importer: Importer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        talks = tmp_path / "python"
        talks.write_text(f'#!/bin/sh\nhead -c 1000000 /dev/zero >&2\nexec {sys.executable} "$@"\n')
        talks.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(talks))
        (importer.folder / "body").write_text("text,label\n" + "a,b\nc,d\n")
        with scratch_folder(tmp_path / "apart") as folder:
            convert_apart("r.csv", folder, ImportOptions(), path=importer.folder / "body")

    def test_names_of_people_are_looked_for_without_a_word(self, capfd: pytest.CaptureFixture[str]) -> None:
        for number in range(200):
            find_personal(
                f"Dear Mr. Smith number {number}, Alexandra Winterbottom-Jones and Grant Kowalski called " * 20
            )
        assert capfd.readouterr().err == ""

    def test_the_other_process_names_a_bad_row_too(self, importer: Importer, tmp_path: Path) -> None:
        (importer.folder / "body").write_text("text,label\n" + "a,b\n" * 5000 + "c\n")
        options = ImportOptions(workers=2, limits=Limits(block_bytes=2000))
        with scratch_folder(tmp_path / "apart") as folder, pytest.raises(BadRow, match="line 5002") as caught:
            convert_apart("r.csv", folder, options, path=importer.folder / "body")
        assert caught.value.details == {"file": "r.csv", "line": 5002, "column": "label"}


class TestTags:
    ROWS = (
        {"text": "first question", "label": "a", "ok": "yes", "until": "2027-01-31", "who": "c1"},
        {"text": "second question", "label": "b", "ok": "no", "until": "", "who": "c2"},
        {"text": "third question", "label": "b", "ok": "training", "until": "2025-01-31", "who": "c3"},
    )

    def test_rows_without_consent_are_refused(self, importer: Importer) -> None:
        with pytest.raises(BadRow, match=r"r\.jsonl line 2, column ok: there is no consent to training"):
            importer("r.jsonl", jsonl(*self.ROWS), tags=Tags(consent="ok"), fractions=ALL_TRAIN)

    def test_or_dropped_and_counted(self, importer: Importer) -> None:
        tags = Tags(consent="ok", retain_until="until", id="who", without_consent="drop")
        made = importer("r.jsonl", jsonl(*self.ROWS), tags=tags, fractions=ALL_TRAIN)
        rows = importer.rows(made)
        assert [(row["text"], row["_consent"]) for row in rows] == [
            ("first question", "*"),
            ("third question", ";training;"),
        ]
        assert [str(row["_retain_until"]) for row in rows] == ["2027-01-31", "2025-01-31"]
        assert made.report["consent"] == {"purpose": "training", "without_consent": "drop", "dropped": 1}
        assert made.report["retention"] == {"until": {"2025-01-31": 1, "2027-01-31": 1}}

    @pytest.mark.parametrize(
        ("change", "message"),
        [({"ok": "perhaps"}, "line 1, column ok: 'perhaps' is no consent"), ({"until": "soon"}, "'soon' is no day")],
    )
    def test_what_cannot_be_understood_is_named(self, importer: Importer, change: dict[str, str], message: str) -> None:
        with pytest.raises(BadRow, match=message):
            importer("r.jsonl", jsonl({**self.ROWS[0], **change}), tags=Tags(consent="ok", retain_until="until"))

    def test_a_tag_of_no_column_is_refused(self, importer: Importer) -> None:
        with pytest.raises(InvalidInput, match="has no column 'consent'"):
            importer("r.jsonl", jsonl(*self.ROWS), tags=Tags(consent="consent"))

    def test_no_consent_at_all_leaves_nothing(self, importer: Importer) -> None:
        with pytest.raises(InvalidInput, match="none of its 1 rows has consent"):
            importer("r.jsonl", jsonl(self.ROWS[1]), tags=Tags(consent="ok", without_consent="drop"))


class TestReport:
    def test_tells_near_duplicates_leakage_and_personal_data(self, importer: Importer) -> None:
        words = "one two three four five six seven eight nine ten eleven twelve"
        rows = [{"text": f"{words} {n}", "label": "a", "mail": f"user{n}@example.com"} for n in range(60)]
        report = importer("r.jsonl", jsonl(*rows)).report
        near = report["near_duplicates"]
        assert (near["groups"], near["rows"], near["extra"]) == (1, 60, 59)
        assert near["listed"][0]["lines"][:3] == [1, 2, 3]
        assert near["listed"][0]["texts"][0].startswith("one two")
        assert report["leakage"]["train_test"]["share"] == 1.0
        assert [(one["column"], one["rule"], one["rows"]) for one in report["privacy"]["findings"]] == [
            ("mail", "email", 60)
        ]


class TestReadRows:
    def test_gives_the_first_rows(self, importer: Importer) -> None:
        made = importer("r.csv", "text,label\n" + "".join(f"t{n},a\n" for n in range(300)), fractions=ALL_TRAIN)
        digest = next(file.sha256 for file in made.manifest.files if file.path == "data/train.parquet")
        rows = read_rows(importer.store, digest, 120)
        assert [row["text"] for row in rows] == [f"t{n}" for n in range(120)]


HOLD = """
import pathlib, sys, time
from finmaas_registry.dataset_import import scratch_folder
with scratch_folder(pathlib.Path(sys.argv[1])) as folder:
    (folder / "000000.arrow").write_bytes(b"half")
    print("ready", flush=True)
    sys.stdin.read()
"""


class TestSweepScratch:
    def test_removes_what_a_killed_import_left_and_nothing_else(self, tmp_path: Path) -> None:
        argv = [sys.executable, "-c", HOLD, str(tmp_path)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as import_:
            assert import_.stdout is not None
            assert import_.stdout.readline() == b"ready\n"
            assert sweep_scratch(tmp_path) == 0
            import_.send_signal(signal.SIGKILL)
            import_.wait()
        assert sweep_scratch(tmp_path) == 1
        assert [*tmp_path.iterdir()] == []

    def test_no_folder_yet_is_fine(self, tmp_path: Path) -> None:
        assert sweep_scratch(tmp_path / "absent") == 0
