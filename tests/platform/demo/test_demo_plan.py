from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from finmaas_platform.demo.plan import Plan, to_name
from finmaas_platform.sdk.objects import DatasetVersion
from finmaas_training.spec import EvaluationSpec, TrainingSpec


def make_dataset(rows: int) -> DatasetVersion:
    return DatasetVersion(
        id="dsv_1",
        dataset="rows",
        version=1,
        ref="default/default/rows@1",
        shape="classification",
        rows=rows,
        splits={"train": rows},
        stats={"text_chars": {"mean": 60.0}},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


class TestPlan:
    def test_the_demo_has_names_and_groups_of_its_own(self) -> None:
        plan = Plan(out=Path("out"))
        assert (plan.name, plan.base_name, plan.group) == ("intents", "small-base", "phrasing")

    def test_own_data_and_base_give_the_names(self) -> None:
        plan = Plan(out=Path("out"), data=Path("/x/Bank Tickets (2026).csv"), base=Path("/m/Qwen3-0.6B"))
        assert (plan.name, plan.base_name, plan.group) == ("bank-tickets-2026", "qwen3-0.6b", None)

    @pytest.mark.parametrize("base", [None, Path("/m/Qwen3-0.6B")])
    @pytest.mark.parametrize("rows", [10, 5_000, 1_000_000])
    def test_specs_are_specs(self, base: Path | None, rows: int) -> None:
        plan = Plan(out=Path("out"), base=base)
        spec = TrainingSpec.model_validate(plan.training_spec("tiny@1", make_dataset(rows)))
        assert spec.output == "intents"
        assert (spec.learning_rate < 1e-4) is (base is not None)
        EvaluationSpec.model_validate(plan.evaluation_spec("intents@1", "tiny@1", "rows@1"))

    def test_epochs_can_be_given(self) -> None:
        spec = Plan(out=Path("out"), epochs=1).training_spec("tiny@1", make_dataset(5_000))
        assert spec["epochs"] == 1


class TestToName:
    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("banking77", "banking77"),
            ("My File (2)", "my-file-2"),
            ("数据", "data"),
            ("a" * 90, "a" * 64),
            ("--x_", "x"),
        ],
    )
    def test_any_text_becomes_a_name(self, text: str, name: str) -> None:
        assert to_name(text) == name
