from __future__ import annotations

import math

from finmaas_platform.cli.curve import draw_curve


class TestDrawCurve:
    def test_draws_what_was_drawn_before(self) -> None:
        points = [(float(step), 8.0 * math.exp(-step / 40)) for step in range(0, 200, 10)]
        assert draw_curve(points, width=30, height=4, title="loss") == "\n".join(
            [
                "      loss",
                "8.00 ┤⠱⡀",
                "     │⠀⠈⠢⡀",
                "2.71 ┤⠀⠀⠀⠈⠒⠤⣀",
                "0.07 ┤⠀⠀⠀⠀⠀⠀⠀⠉⠑⠒⠢⠤⠤⠤⠤⠤⣀⣀⣀⣀⣀⣀⣀⣀",
                "     └────────────────────────",
                "      step 0               190",
            ]
        )

    def test_a_flat_line_is_a_line(self) -> None:
        assert "⠉" in draw_curve([(0.0, 1.0), (10.0, 1.0)], width=20, height=3)

    def test_one_point_is_no_curve(self) -> None:
        assert draw_curve([(0.0, 1.0)]) == ""
        assert draw_curve([]) == ""

    def test_no_line_is_wider_than_asked(self) -> None:
        points = [(float(step), float(step % 7)) for step in range(500)]
        assert max(len(line) for line in draw_curve(points, width=40, height=6).splitlines()) <= 40
