from __future__ import annotations

import pytest

from finmaas_training.deepspeed_config import deepspeed_config, learning_rate_at
from finmaas_training.spec import TrainingSpec

SPEC = TrainingSpec(base="b", dataset="d", output="o", learning_rate=1.0, warmup_fraction=0.1)


class TestLearningRateAt:
    def test_warms_up_linearly_then_falls_to_almost_nothing(self) -> None:
        rates = [learning_rate_at(SPEC, step, 100) for step in range(100)]
        assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
        assert rates[9] == max(rates)
        assert rates[9:] == sorted(rates[9:], reverse=True)
        assert rates[-1] == pytest.approx(0.01)

    @pytest.mark.parametrize(("schedule", "last"), [("cosine", 0.1), ("constant", 1.0), ("one_cycle", 0.01)])
    def test_ends_where_the_schedule_says(self, schedule: str, last: float) -> None:
        spec = SPEC.model_copy(update={"schedule": schedule})
        assert learning_rate_at(spec, 99, 100) == pytest.approx(last)

    def test_one_step_runs_have_a_rate(self) -> None:
        assert learning_rate_at(SPEC, 0, 1) > 0

    def test_no_warm_up_starts_at_the_peak(self) -> None:
        assert learning_rate_at(SPEC.model_copy(update={"warmup_fraction": 0.0}), 0, 1000) == pytest.approx(1, abs=1e-3)


class TestDeepspeedConfig:
    @pytest.mark.parametrize("on_gpu", [True, False])
    @pytest.mark.parametrize("stage", [2, 3])
    def test_batch_arithmetic_holds(self, on_gpu: bool, stage: int) -> None:
        spec = SPEC.model_copy(update={"workers": 4, "batch_size": 64, "micro_batch_size": 8, "zero_stage": stage})
        config = deepspeed_config(spec, on_gpu)
        steps = config["gradient_accumulation_steps"]
        assert config["train_micro_batch_size_per_gpu"] * steps * spec.workers == config["train_batch_size"] == 64
        assert config["zero_optimization"]["stage"] == stage
        assert config["zero_optimization"]["overlap_comm"] is on_gpu
