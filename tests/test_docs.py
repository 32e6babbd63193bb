"""Documentation is checked against the product: commands exist, links lead somewhere, make targets are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from finmaas_platform.cli.main import app

UsageError = typer.BadParameter.__mro__[1]  # the class that Typer raises, wherever it keeps its copy of click

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"```sh\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def commands() -> list[tuple[str, str]]:
    """Every shell line of every fenced block, with the page it stands on; comments cut, `\\` joined."""
    found = []
    for page in PAGES:
        for block in FENCE.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.split("  #")[0].strip()
                if command and not command.startswith("#"):
                    found.append((str(page.relative_to(ROOT)), command))
    return found


def parse(words: list[str]) -> None:
    """Resolves a command line as the CLI would, without running it; a UsageError where it would refuse it."""
    command = typer.main.get_command(app)
    context = None
    while True:
        context = command.make_context(words[0], list(words[1:]), parent=context)
        if not isinstance(command, TyperGroup):
            return
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        words = [str(name), *rest]


class TestDocs:
    def test_there_are_commands_to_check(self) -> None:
        assert len([command for _, command in commands() if "finmaas " in command]) >= 20

    @pytest.mark.parametrize(("page", "command"), [pair for pair in commands() if re.match(r"\S*finmaas ", pair[1])])
    def test_every_cli_line_is_one_that_the_cli_takes(self, page: str, command: str, tmp_path: Path) -> None:
        words = shlex.split(re.split(r" [<>] ?", command)[0])
        for index, word in enumerate(words):
            if word.startswith(("/models/", "/mnt/", "~")) or word in ("rows.csv", "small-base", "<id>", "finmaas.tar"):
                stand_in = tmp_path / Path(word).name
                if "." in stand_in.name and "Qwen" not in stand_in.name:
                    stand_in.touch()
                else:
                    stand_in.mkdir(exist_ok=True)
                if words[1:3] != ["train", "small-base"] and words[index - 1] != "--name":
                    words[index] = str(stand_in)
        try:
            parse(words)
        except UsageError as error:
            pytest.fail(f"{page}: {command}: {error.format_message()}")

    @pytest.mark.parametrize("words", ["up --nope", "jobs", "key create", "dataset show"])
    def test_a_line_that_the_cli_refuses_is_noticed(self, words: str) -> None:
        with pytest.raises(UsageError):
            parse(["finmaas", *words.split()])

    @pytest.mark.parametrize(("page", "command"), [pair for pair in commands() if pair[1].startswith("make ")])
    def test_every_make_target_exists(self, page: str, command: str) -> None:
        target = command.split()[1]
        assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"{page}: {command}"

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
    def test_every_link_leads_somewhere(self, page: Path) -> None:
        for target in LINK.findall(page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
