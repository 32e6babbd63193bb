from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from finmaas_platform.cli.progress import JobView, StepClock, describe_job, describe_metrics
from finmaas_platform.cli.scores import read_scores
from finmaas_platform.cli.terminal import format_bytes, format_number, format_seconds
from finmaas_platform.sdk.objects import Job


def make_job(state: str = "running", **fields: Any) -> Job:
    plain = {
        "id": "job_1",
        "project": "default/default",
        "kind": "training",
        "spec": {},
        "state": state,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return Job.model_validate({**plain, **fields})


class TestStepClock:
    def test_counts_from_where_it_came_in(self) -> None:
        now = iter([0.0, 0.0, 10.0, 20.0])
        clock = StepClock(lambda: next(now))
        assert clock.estimate_left_s(100, 200) is None
        assert clock.estimate_left_s(150, 200) == pytest.approx(0.0)
        assert clock.estimate_left_s(150, 200) == pytest.approx(10.0)

    def test_starts_anew_when_a_job_goes_back_to_its_checkpoint(self) -> None:
        now = iter([0.0, 10.0])
        clock = StepClock(lambda: next(now))
        clock.estimate_left_s(100, 200)
        assert clock.estimate_left_s(50, 200) is None


class TestDescribeJob:
    def test_waiting_tells_why(self) -> None:
        job = make_job("queued", reason="waits for its turn: 2 of 2 jobs run, it is next")
        fields = describe_job(job, StepClock())
        assert fields["description"] == "training queued: waits for its turn: 2 of 2 jobs run, it is next"
        assert fields["total"] is None

    def test_running_tells_steps_and_loss(self) -> None:
        progress = {"step": 1200, "total_steps": 3000, "stage": "training"}
        job = make_job(progress=progress, metrics={"loss": 0.41234, "tokens_per_s": 3120.4}, attempt=2)
        fields = describe_job(job, StepClock())
        assert fields["description"] == "training (attempt 2)"
        assert (fields["count"], fields["detail"]) == ("1,200/3,000", "loss 0.412 · 3,120 tokens/s")

    def test_no_figures_no_words(self) -> None:
        assert describe_metrics({}) == ""


class TestJobView:
    def test_off_a_terminal_lines_come_seldom_and_without_control_codes(self) -> None:
        out = io.StringIO()
        with JobView(Console(file=out, width=200)) as view:
            for step in range(50):
                view.update(make_job(progress={"step": step, "total_steps": 50, "stage": "training"}), [])
            view.update(make_job("succeeded", reason="made tuned@1"), [])
        assert out.getvalue().splitlines() == ["training · 0/50", "training succeeded: made tuned@1"]
        assert "\x1b" not in out.getvalue()


class TestScores:
    def test_one_row_per_contender(self) -> None:
        flat = {
            "exact_match": 0.9,
            "macro_f1": 0.88,
            "parse_rate": 1.0,
            "base_exact_match": 0.0,
            "tfidf_exact_match": 0.8,
        }
        assert [(c.name, c.scores) for c in read_scores({"scores": flat})] == [
            ("this model", {"exact_match": 0.9, "macro_f1": 0.88, "parse_rate": 1.0}),
            ("untuned base", {"exact_match": 0.0}),
            ("TF-IDF + linear", {"exact_match": 0.8}),
        ]


class TestWords:
    @pytest.mark.parametrize(
        ("seconds", "words"),
        [(0.34, "0.3 s"), (9.99, "10.0 s"), (59.4, "59 s"), (95, "1 min 35 s"), (3725, "1 h 02 min")],
    )
    def test_seconds(self, seconds: float, words: str) -> None:
        assert format_seconds(seconds) == words

    @pytest.mark.parametrize(("count", "words"), [(0, "0 B"), (999, "999 B"), (5_242_880, "5.2 MB"), (2e12, "2.0 TB")])
    def test_bytes(self, count: float, words: str) -> None:
        assert format_bytes(count) == words

    @pytest.mark.parametrize(
        ("value", "words"), [(0.0, "0"), (0.00123, "0.00123"), (12.3456, "12.35"), (312.4, "312.4"), (3120.4, "3,120")]
    )
    def test_numbers(self, value: float, words: str) -> None:
        assert format_number(value) == words
