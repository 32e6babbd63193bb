"""What the demo is asked to do: its options as one frozen value, and the names and specs that follow from them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finmaas_training.recipes import recommended_training

if TYPE_CHECKING:
    from finmaas_platform.sdk.objects import DatasetVersion

PROJECT = "default/default"
SEED = 17
STAND_IN = "small-base"


@dataclass(frozen=True)
class Plan:
    """`data` and `base` are None for the demo's own; `out` takes report, data and base."""

    out: Path
    home: Path | None = None
    data: Path | None = None
    text: str = "text"
    label: str = "label"
    base: Path | None = None
    epochs: int | None = None

    @property
    def name(self) -> str:
        """Name of dataset, tuned model and endpoint."""
        return "intents" if self.data is None else to_name(self.data.stem)

    @property
    def base_name(self) -> str:
        return STAND_IN if self.base is None else to_name(self.base.name)

    @property
    def group(self) -> str | None:
        """Column that keeps rows of one phrasing in one split; the user's own rows are grouped by their text."""
        return "phrasing" if self.data is None else None

    def training_spec(self, base: str, dataset: DatasetVersion) -> dict[str, Any]:
        """The settings that fit the size of the data for the stand-in; few and gentle steps for a real base."""
        names = {"base": base, "dataset": dataset.ref, "output": self.name}
        if self.base is not None:
            return {**names, "epochs": self.epochs or 2, "learning_rate": 2e-5, "schedule": "cosine"}
        rows = dataset.splits.get("train", dataset.rows)
        chars = dataset.stats.get("text_chars")
        mean_chars = float(chars.get("mean", 0)) if isinstance(chars, dict) else 0.0
        settings = recommended_training(rows, mean_chars, SEED)
        return {**names, **settings, **({"epochs": self.epochs} if self.epochs else {})}

    def evaluation_spec(self, model: str, base: str, dataset: str) -> dict[str, Any]:
        return {"model": model, "base": base, "dataset": dataset, "split": "test"}


def to_name(text: str) -> str:
    """A name that the platform accepts, made of any text: `My File (2)` becomes `my-file-2`."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:64].strip("-._")
    return name or "data"
