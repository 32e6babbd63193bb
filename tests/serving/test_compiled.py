"""What is compiled of the gateway: found while its sources are as they were, and passed over when they are not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from finmaas_core.settings import Settings
from finmaas_platform.embedded.doctor import Verdict, check_hot_path
from finmaas_serving import compiled

LOADED = """
import sys
from finmaas_serving import compiled
print(compiled.install())
from finmaas_serving.gateway import usual
print(usual.__loader__.__class__.__name__)
"""


def load(tmp: Path, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, cwd=tmp, env=environment
    )
    return done.stdout.split()


class TestInstall:
    def test_a_process_that_asks_gets_compiled_code(self, tmp_path: Path) -> None:
        assert load(tmp_path) == ["True", "ExtensionFileLoader"]

    def test_and_none_when_it_is_told_so(self, tmp_path: Path) -> None:
        assert load(tmp_path, FINMAAS_INTERPRETED="1") == ["False", "SourceFileLoader"]

    def test_a_source_that_changed_is_interpreted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = compiled._folder()
        changed = tmp_path / "wire.py"
        changed.write_text("# other\n", encoding="utf-8")
        sources = [*compiled._sources()[:-1], changed]
        monkeypatch.setattr(compiled, "_sources", lambda: sources)
        assert compiled._folder() != before
        assert not compiled.install()

    def test_every_module_that_is_named_exists(self) -> None:
        assert all(importlib.util.find_spec(f"{compiled.PACKAGE}.{name}") for name in compiled.MODULES)
        assert all(source.exists() for source in compiled._sources())

    def test_types_that_are_read_while_the_program_runs_are_not_compiled(self) -> None:
        """Compiled, msgspec would not see their fields' types."""
        for source in compiled._sources():
            assert "msgspec.Struct" not in source.read_text(encoding="utf-8"), source.name


class TestDoctor:
    def test_says_which_it_is(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        [finding] = check_hot_path(Settings(home=tmp_path))
        assert (finding.found, finding.verdict) == ("compiled", Verdict.OK)
        monkeypatch.setattr(compiled, "_base", lambda: tmp_path)
        [finding] = check_hot_path(Settings(home=tmp_path))
        assert (finding.verdict, finding.advice) == (Verdict.WARN, "run `make setup`")


class TestCompile:
    def test_sources_that_cannot_be_compiled_say_why_and_change_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail() -> Path:
            raise OSError("the compiler stopped: gcc: not found")

        monkeypatch.setattr(compiled, "_base", lambda: tmp_path)
        monkeypatch.setattr(compiled, "compile_all", fail)
        monkeypatch.setattr(sys, "argv", ["compiled"])
        assert compiled.main() == 0
        assert "stays interpreted" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
