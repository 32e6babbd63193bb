"""The demo's stages on the terminal: one bar with time left for the stage, one for the whole. No stage is known here.

On a terminal the two bars stay at the bottom and finished stages become lines above; elsewhere all is plain lines.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from finmaas_platform.cli.progress import StepClock
from finmaas_platform.cli.terminal import format_seconds, make_console

if TYPE_CHECKING:
    from rich.console import RenderableType

PLAIN_EVERY_S = 10.0
ALMOST = 0.97
"""Where a bar that is driven by time alone waits for the end."""


@dataclass
class Stage:
    """One stage while it runs. `fraction` is None until the stage itself knows how far it is."""

    title: str
    expected_s: float
    started: float
    fraction: float | None = None
    left_s: float | None = None
    detail: str = ""
    summary: str = ""
    on_change: Callable[[Stage], None] = lambda _stage: None
    clock: StepClock = field(default_factory=StepClock)

    def update(self, done: int, total: int, detail: str = "") -> None:
        """How far the stage is, of its own knowledge."""
        self.fraction = done / total if total else None
        self.left_s = self.clock.estimate_left_s(done, total)
        self.detail = detail
        self.on_change(self)

    def tell(self, detail: str) -> None:
        """What the stage does now."""
        self.detail = detail
        self.on_change(self)

    def finish(self, summary: str) -> None:
        """What came out, for the line that stays."""
        self.summary = summary

    def estimate(self, now: float) -> tuple[float, float]:
        """The part that is done, from 0 to 1, and the seconds left."""
        elapsed = now - self.started
        by_time = min(ALMOST, elapsed / self.expected_s) if self.expected_s else ALMOST
        if self.fraction is None:
            return by_time, max(0.0, self.expected_s - elapsed)
        left = self.left_s if self.left_s is not None else max(0.0, self.expected_s - elapsed)
        return self.fraction, left


class Board:
    """Shows stages and remembers how long each took, so that the next run knows better."""

    def __init__(self, stages: Sequence[tuple[str, float]], memory: Path) -> None:
        self._titles = [title for title, _ in stages]
        self._expected = {**dict(stages), **_read_times(memory, self._titles)}
        self._memory = memory
        self._console = make_console()
        self._stage: Stage | None = None
        self._number = 0
        self._last_line = ""
        self._last_line_at = 0.0
        self.seconds: dict[str, float] = {}
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        _write_times(self._memory, self._titles, self.seconds)

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        """Runs a stage; its line is printed when it ends without an error."""
        self._number = self._titles.index(title) + 1
        stage = Stage(title, self._expected[title], time.monotonic(), on_change=self._print_change)
        self._stage = stage
        if not self._console.is_terminal:
            self._print(f"[{self._number}/{len(self._titles)}] {title} …")
        yield stage
        took = time.monotonic() - stage.started
        self.seconds[title] = round(took, 2)
        self._print_end(stage, took)

    def _print_end(self, stage: Stage, took: float) -> None:
        if not self._console.is_terminal:
            self._print(f"[{self._number}/{len(self._titles)}] done in {format_seconds(took)}: {stage.summary}")
            return
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(width=1)
        line.add_column(width=24, no_wrap=True)
        line.add_column(ratio=1, overflow="fold")
        line.add_column(justify="right", no_wrap=True)
        line.add_row(
            Text("✓", style="bold green"),
            Text(stage.title, style="bold"),
            Text(stage.summary),
            Text(format_seconds(took), style="dim"),
        )
        self._console.print(line)

    def _print_change(self, stage: Stage) -> None:
        """A plain line about a running stage: at once for something new without figures, else every few seconds."""
        if self._console.is_terminal:
            return
        now = time.monotonic()
        is_news = stage.fraction is None and stage.detail != self._last_line
        pause_s = PLAIN_EVERY_S if stage.fraction is not None else 3 * PLAIN_EVERY_S
        if not is_news and now - self._last_line_at < pause_s:
            return
        self._last_line, self._last_line_at = stage.detail, now
        parts = [] if stage.fraction is None else [f"{stage.fraction:.0%}"]
        parts += [stage.detail] if stage.detail else []
        parts += [] if stage.left_s is None else [f"{format_seconds(stage.left_s)} left"]
        parts += [] if is_news or stage.fraction is not None else [f"for {format_seconds(now - stage.started)}"]
        self._print(f"[{self._number}/{len(self._titles)}] {' · '.join(parts)}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        # Always two lines: with another height a refresh at the moment of a print would wipe the printed line.
        stage = self._stage
        if stage is None:
            return Text(" \n ")
        now = time.monotonic()
        part, left_s = stage.estimate(now)
        later_s = sum(self._expected[title] for title in self._titles[self._number :])
        total_s = sum(self._expected.values())
        whole = (self._number - 1 + part) / len(self._titles) if not total_s else 1 - (left_s + later_s) / total_s
        lines = Table.grid(padding=(0, 1), expand=True)
        lines.add_column(width=1)
        lines.add_column(width=24, no_wrap=True)
        lines.add_column(width=24)
        lines.add_column(width=17, no_wrap=True)
        lines.add_column(ratio=1, overflow="ellipsis", no_wrap=True)
        lines.add_row(
            Spinner("dots", style="cyan"),
            Text(stage.title, style="bold"),
            ProgressBar(total=1.0, completed=part, width=24, complete_style="cyan", finished_style="green"),
            Text(_describe_left(left_s)),
            Text(stage.detail, style="cyan"),
        )
        lines.add_row(
            "",
            Text(f"stage {self._number} of {len(self._titles)}", style="dim"),
            ProgressBar(total=1.0, completed=min(1.0, max(0.0, whole)), width=24, complete_style="dim"),
            Text(_describe_left(left_s + later_s), style="dim"),
            "",
        )
        return lines


def _describe_left(left_s: float) -> str:
    return "any moment" if left_s < 1 else f"{format_seconds(round(left_s))} left"


def _read_times(memory: Path, titles: Sequence[str]) -> dict[str, float]:
    """How long the stages took when they last had work to do; nothing where there is no memory."""
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {title: float(found[title]) for title in titles if isinstance(found.get(title), int | float)}


def _write_times(memory: Path, titles: Sequence[str], seconds: Mapping[str, float]) -> None:
    """Keeps the longest time of each stage: a run that found all done says nothing about the next fresh one."""
    known = _read_times(memory, titles)
    kept = {**known, **{title: max(took, known.get(title, 0.0)) for title, took in seconds.items()}}
    memory.parent.mkdir(parents=True, exist_ok=True)
    memory.write_text(json.dumps(kept, indent=2), encoding="utf-8")
