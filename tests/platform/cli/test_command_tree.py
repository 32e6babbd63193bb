"""What holds for every command: help with an example, --json, examples that can be typed, a quick start."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from finmaas_platform.cli.main import app
from finmaas_platform.cli.reference import CommandPage, list_pages, render_reference

PAGES = list(list_pages(typer.main.get_command(app)))
# They print nothing that a script would parse, or a stream.
WITHOUT_JSON = {"finmaas down", "finmaas logs", "finmaas backup", "finmaas restore"}


def every(pages: list[CommandPage]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=[page.path.removeprefix("finmaas ") for page in pages])


class TestEveryCommand:
    @every(PAGES)
    def test_has_help_with_an_example(self, page: CommandPage) -> None:
        assert page.help
        assert page.examples
        shown = CliRunner().invoke(app, [*page.path.split()[1:], "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0
        assert "Example: finmaas" in shown.output or "Example: echo" in shown.output

    @every(PAGES)
    def test_takes_json(self, page: CommandPage) -> None:
        has_json = any(name == "--json" for name, _ in page.options)
        assert has_json is (page.path not in WITHOUT_JSON)

    @every(PAGES)
    def test_every_option_is_explained(self, page: CommandPage) -> None:
        assert all(text for _, text in (*page.options, *page.arguments))

    @every(PAGES)
    def test_examples_name_this_command_and_options_that_it_has(self, page: CommandPage) -> None:
        known = {name for names, _ in page.options for name in names.split(", ")}
        for example in page.examples:
            words = shlex.split(example.split(" | ")[-1])
            assert " ".join(words).startswith(page.path)
            assert {word for word in words if word.startswith("-")} <= known

    def test_there_are_all_the_nouns(self) -> None:
        nouns = {page.path.split()[1] for page in PAGES}
        wanted = "tenant project principal token key grant dataset train evaluate job model deploy endpoint usage audit"
        assert set(wanted.split()) <= nouns
        assert {"up", "down", "status", "doctor", "logs", "backup", "restore", "chat", "undeploy"} <= nouns


class TestReference:
    def test_the_same_tree_gives_the_same_bytes(self) -> None:
        text = render_reference()
        assert text == render_reference()
        assert text.count("\n## finmaas ") == len(PAGES)
        assert str(Path.home()) not in text

    def test_the_page_in_the_repository_is_that_of_this_tree(self) -> None:
        page = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"
        assert page.read_text(encoding="utf-8") == render_reference(), "run `make docs`"


class TestStart:
    def test_help_loads_no_http_and_no_models(self) -> None:
        code = (
            "import sys\n"
            "from finmaas_platform.cli.main import app\n"
            "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
            "print('LOADED', *sorted(sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        loaded = set(done.stdout.rpartition("LOADED")[2].split())
        heavy = {"httpx", "pydantic", "pydantic_settings", "sqlalchemy", "fastapi", "pyarrow", "structlog", "psutil"}
        assert loaded & heavy == set()
        assert loaded & {"torch", "ray", "vllm", "deepspeed", "openai"} == set()
