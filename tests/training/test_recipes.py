"""Shipped recipes are specs that a job takes, and the recommendation follows the size of the data."""

from __future__ import annotations

from pathlib import Path

import pytest

from finmaas_platform.cli.train import read_spec_file
from finmaas_training.recipes import recommended_training
from finmaas_training.spec import TrainingSpec

RECIPES = sorted((Path(__file__).parents[2] / "training" / "recipes").glob("*.yaml"))
NAMES = {"base": "base@1", "dataset": "rows@1", "output": "out"}


class TestShippedRecipes:
    def test_all_are_tested(self) -> None:
        assert [path.name for path in RECIPES] == ["demo-intents.yaml", "intent-small.yaml"]

    @pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
    def test_starts_with_its_command_and_is_a_spec(self, path: Path) -> None:
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith("# finmaas train ")
        assert first.endswith(f"--spec training/recipes/{path.name}")
        TrainingSpec(**NAMES, **read_spec_file(path))


class TestRecommendedTraining:
    @pytest.mark.parametrize(
        ("rows", "mean_chars", "epochs", "batch_size"),
        [
            (40, 60, 40, 16),
            (600, 60, 40, 32),
            (14_300, 65, 6, 64),
            (7300, 60, 12, 64),
            (7300, 600, 3, 64),
            (10**6, 60, 2, 64),
        ],
    )
    def test_epochs_and_batch_by_size(self, rows: int, mean_chars: float, epochs: int, batch_size: int) -> None:
        fields = recommended_training(rows, mean_chars, seed=3)
        assert (fields["epochs"], fields["batch_size"]) == (epochs, batch_size)
        assert TrainingSpec(**NAMES, **fields).seed == 3
