from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from finmaas_core.errors import InvalidSpec
from finmaas_training.spec import EvaluationSpec, TrainingSpec
from finmaas_training.validate import ClusterFacts, TrainingFacts, choose_device, validate_training

SPEC = TrainingSpec(base="tiny@1", dataset="intents@1", output="intents-tiny")
CPU = ClusterFacts(cpus=16)
FACTS = TrainingFacts("classification", {"train": 900}, base_context=1024, base_parameters=2_500_000, cluster=CPU)


class TestValidateTraining:
    @pytest.mark.parametrize("zero_stage", [2, 3])
    @pytest.mark.parametrize("precision", ["bf16", "fp32"])
    def test_lets_pass_what_works_on_cpu(self, zero_stage: int, precision: str) -> None:
        validate_training(SPEC.model_copy(update={"zero_stage": zero_stage, "precision": precision}), FACTS)

    def test_lets_pass_what_is_not_known(self) -> None:
        validate_training(SPEC, TrainingFacts("chat", {"train": 1}))

    @pytest.mark.parametrize(
        ("changes", "facts", "message"),
        [
            ({"batch_size": 65}, {}, "batch_size 65 cannot be dealt to 2 workers; use 64"),
            ({"batch_size": 1}, {}, "use 2"),
            ({"micro_batch_size": 5}, {}, "does not divide the 32 rows"),
            ({"max_length": 2048}, {}, "max_length 2048 exceeds the context of tiny@1, 1024 tokens"),
            ({"workers": 32, "batch_size": 64}, {}, "need 32 CPU slots and the cluster has 16"),
            ({"device": "gpu"}, {}, "need 2 GPUs and the cluster has 0"),
            ({}, {"splits": {"train": 0, "test": 4}}, r"no rows in its train split \(train: 0, test: 4\)"),
            ({}, {"shape": "preference"}, "has the shape preference"),
            ({}, {"base_kind": "adapter"}, "is an adapter"),
            ({}, {"base_parameters": 7_000_000_000}, "7.0 billion parameters, too many to train on CPU"),
        ],
    )
    def test_refuses_what_cannot_work(self, changes: dict[str, Any], facts: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidSpec, match=message):
            validate_training(SPEC.model_copy(update=changes), replace(FACTS, **facts))


class TestChooseDevice:
    @pytest.mark.parametrize(
        ("device", "gpus", "chosen"), [("auto", 0, "cpu"), ("auto", 1, "cpu"), ("auto", 2, "gpu"), ("cpu", 8, "cpu")]
    )
    def test_takes_gpus_when_there_is_one_for_each_worker(self, device: str, gpus: int, chosen: str) -> None:
        assert choose_device(SPEC.model_copy(update={"device": device}), ClusterFacts(16, gpus)) == chosen


class TestSpecs:
    @pytest.mark.parametrize("ref", ["a", "a@1", "t/p/a@12", "qwen3-0.6b@2", "a@production"])
    def test_takes_references(self, ref: str) -> None:
        assert TrainingSpec(base=ref, dataset="d", output="o").base == ref

    @pytest.mark.parametrize("ref", ["", "A", "a@0", "a@", "a@Big", "p/a", "../a", "a@1@2"])
    def test_refuses_what_is_no_reference(self, ref: str) -> None:
        with pytest.raises(ValidationError):
            TrainingSpec(base=ref, dataset="d", output="o")

    def test_refuses_unknown_fields(self) -> None:
        with pytest.raises(ValidationError):
            TrainingSpec(base="b", dataset="d", output="o", learning_rat=1)  # type: ignore[call-arg]

    def test_evaluation_needs_two_different_models(self) -> None:
        with pytest.raises(ValidationError, match="leave `base` out"):
            EvaluationSpec(model="m@1", base="m@1", dataset="d")
