from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any

from finmaas_core.errors import StaleAttempt, Unavailable
from finmaas_training.reporting import Reporter


class Port:
    """Takes posts, unless it is away."""

    def __init__(self) -> None:
        self.points: dict[int, Mapping[str, float]] = {}
        self.progress: Mapping[str, Any] | None = None
        self.away = False
        self.stale = False
        self.cancel = False
        self.asked = threading.Semaphore(0)

    def post_metrics(
        self, points: list[Mapping[str, Any]], progress: Mapping[str, Any] | None, patience_s: float = 0
    ) -> bool:
        try:
            if self.away:
                raise Unavailable("away")
            if self.stale:
                raise StaleAttempt("attempt 2 runs")
            self.points.update({point["step"]: point["values"] for point in points})
            self.progress = progress or self.progress
            return self.cancel
        finally:
            self.asked.release()

    def wait_for_posts(self, count: int) -> None:
        for _ in range(count):
            assert self.asked.acquire(timeout=10)


class TestReporter:
    def test_delivers_everything_at_the_end(self) -> None:
        port = Port()
        reporter = Reporter(port)
        for step in range(1200):
            reporter.add(step, {"loss": 1.0 / (step + 1)})
        reporter.show("training", 1199, 1200)
        reporter.close()
        assert len(port.points) == 1200
        assert port.progress == {"step": 1199, "total_steps": 1200, "stage": "training"}

    def test_keeps_points_while_nobody_answers(self) -> None:
        port = Port()
        port.away = True
        reporter = Reporter(port, send_every_s=0.01)
        reporter.add(1, {"loss": 2.0})
        reporter.show("training", 1, 9)
        port.wait_for_posts(3)
        reporter.add(2, {"loss": 1.0})
        port.away = False
        reporter.close()
        assert port.points == {1: {"loss": 2.0}, 2: {"loss": 1.0}}
        assert port.progress is not None

    def test_later_values_of_a_step_join_the_earlier(self) -> None:
        port = Port()
        reporter = Reporter(port)
        reporter.add(4, {"loss": 1.0, "broken": math.nan})
        reporter.add(4, {"validation_loss": 2.0})
        reporter.close()
        assert port.points == {4: {"loss": 1.0, "validation_loss": 2.0}}

    def test_tells_of_a_cancellation(self) -> None:
        port = Port()
        port.cancel = True
        reporter = Reporter(port)
        reporter.close()
        assert "cancelled" in reporter.stop_reason

    def test_a_stale_attempt_stops(self) -> None:
        port = Port()
        port.stale = True
        reporter = Reporter(port)
        reporter.close()
        assert "attempt 2 runs" in reporter.stop_reason

    def test_flush_waits_for_the_answer_to_what_was_added(self) -> None:
        port = Port()
        port.away = True
        reporter = Reporter(port, send_every_s=0.01)
        reporter.add(1, {"loss": 2.0})
        port.wait_for_posts(2)
        port.away = False
        reporter.flush()
        assert port.points == {1: {"loss": 2.0}}
        reporter.close()
