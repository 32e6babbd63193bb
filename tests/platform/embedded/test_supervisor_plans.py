"""The supervisor's decisions, without processes."""

from __future__ import annotations

import os

import psutil
import pytest

from finmaas_platform.embedded.supervisor import Watched, find_living, plan_restart


class TestPlanRestart:
    @pytest.mark.parametrize(
        ("lived_s", "quick_deaths", "pause_s", "quick_deaths_after"),
        [
            (100.0, 5, 0.0, 0),  # a steady life is forgiven
            (1.0, 0, 0.0, 1),  # the first quick death is retried at once
            (1.0, 1, 1.0, 2),
            (1.0, 2, 2.0, 3),
            (1.0, 4, 8.0, 5),
            (1.0, 20, 30.0, 21),  # never longer than half a minute
        ],
    )
    def test_pauses_double_with_quick_deaths(
        self, lived_s: float, quick_deaths: int, pause_s: float, quick_deaths_after: int
    ) -> None:
        now = 1_000_000.0
        before = Watched(pid=1, created=0.0, started_at=now - lived_s, restarts=3, quick_deaths=quick_deaths)
        assert plan_restart(before, now) == Watched(
            0, 0.0, now - lived_s, restarts=4, quick_deaths=quick_deaths_after, retry_at=now + pause_s
        )


class TestFindLiving:
    def test_a_pid_that_now_belongs_to_another_process_is_not_adopted(self) -> None:
        me = psutil.Process(os.getpid())
        assert find_living(Watched(me.pid, me.create_time(), 0.0)) == me
        assert find_living(Watched(me.pid, me.create_time() - 100, 0.0)) is None
        assert find_living(Watched(0, 0.0, 0.0)) is None
        assert find_living(None) is None
