"""A small line plot in characters: the loss curve of a training job. Not a plotting library.

Drawn in Braille cells (2 by 4 dots each), about as sharp as a terminal allows. The plotting library for terminals that
was tried took 0.3 s to import, keeps its figure in a global, and changed every call between two major versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # bits of a Braille cell by row and column
_BLANK = 0x2800
Point = tuple[float, float]


def draw_curve(points: Sequence[Point], *, width: int = 64, height: int = 10, title: str = "") -> str:
    """Lines of text, `width` wide and `height` high without title and x axis; empty for fewer than two points."""
    if len(points) < 2:
        return ""
    low, high = min(y for _, y in points), max(y for _, y in points)
    labels = _label_rows(low, high, height)
    margin = max(len(label) for label in labels)
    grid = _draw_dots(points, width - margin - 2, height)
    lines = [f"{' ' * (margin + 2)}{title}"] if title else []
    for label, cells in zip(labels, grid, strict=True):
        tick = "┤" if label else "│"
        lines.append(f"{label:>{margin}} {tick}{''.join(chr(_BLANK + bits) for bits in cells)}".rstrip("\u2800"))
    lines.append(_draw_axis(points[0][0], points[-1][0], margin, width - margin - 2))
    return "\n".join(lines)


def _label_rows(low: float, high: float, height: int) -> list[str]:
    """A label for the top, the middle and the bottom row; no text for the others."""
    digits = 2 if high >= 1 else 3
    labels = [""] * height
    labels[0], labels[-1] = f"{high:.{digits}f}", f"{low:.{digits}f}"
    labels[height // 2] = f"{high - (high - low) * (height // 2) / (height - 1):.{digits}f}"
    return labels


def _draw_dots(points: Sequence[Point], columns: int, rows: int) -> list[list[int]]:
    """The cells of the plot as Braille bits, each two neighbouring points joined by a line."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_span = (max(xs) - min(xs)) or 1.0
    y_span = (max(ys) - min(ys)) or 1.0
    dots = [
        (
            round((x - min(xs)) / x_span * (columns * 2 - 1)),
            round((max(ys) - y) / y_span * (rows * 4 - 1)),
        )
        for x, y in points
    ]
    grid = [[0] * columns for _ in range(rows)]
    for (x0, y0), (x1, y1) in pairwise(dots):
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        for i in range(steps + 1):
            x, y = round(x0 + (x1 - x0) * i / steps), round(y0 + (y1 - y0) * i / steps)
            grid[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
    return grid


def _draw_axis(first: float, last: float, margin: int, columns: int) -> str:
    left, right = f"step {first:.0f}", f"{last:.0f}"
    gap = " " * max(1, columns - len(left) - len(right))
    return f"{' ' * margin} └{'─' * columns}\n{' ' * (margin + 2)}{left}{gap}{right}"
