from __future__ import annotations

import json
from pathlib import Path

import pytest

from finmaas_platform.demo.board import ALMOST, Board, Stage

STAGES = (("One", 10.0), ("Two", 30.0))


class TestStage:
    def test_time_alone_drives_the_bar_until_almost_the_end(self) -> None:
        stage = Stage("One", expected_s=10.0, started=100.0)
        assert stage.estimate(105.0) == (0.5, 5.0)
        assert stage.estimate(200.0) == (ALMOST, 0.0)

    def test_own_knowledge_goes_before_time(self) -> None:
        stage = Stage("One", expected_s=10.0, started=100.0)
        stage.update(3, 4)
        assert stage.estimate(101.0)[0] == 0.75


class TestBoard:
    def test_off_a_terminal_it_prints_plain_lines(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with Board(STAGES, tmp_path / "times.json") as board:
            with board.stage("One") as stage:
                stage.tell("第一步")
                stage.finish("made it")
            with board.stage("Two") as stage:
                for step in range(100):
                    stage.update(step, 100, "loss 1.0")
        lines = capsys.readouterr().out.splitlines()
        assert lines[:2] == ["[1/2] One …", "[1/2] 第一步"]
        assert lines[2].startswith("[1/2] done in ")
        assert lines[2].endswith(": made it")
        assert "\x1b" not in "".join(lines)
        assert len(lines) <= 6

    def test_remembers_the_longest_time_of_each_stage(self, tmp_path: Path) -> None:
        memory = tmp_path / "times.json"
        memory.write_text(json.dumps({"One": 99.0, "Old": 5}))
        with Board(STAGES, memory) as board, board.stage("One"):
            pass
        assert json.loads(memory.read_text()) == {"One": 99.0}
        assert board.seconds["One"] < 99

    def test_an_error_leaves_the_terminal_as_it_was(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        def fail() -> None:
            with Board(STAGES, tmp_path / "t.json") as board, board.stage("One"):
                raise OSError("disk")

        with pytest.raises(OSError, match="disk"):
            fail()
        assert "done" not in capsys.readouterr().out
