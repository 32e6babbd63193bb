"""What the demo is asked to do: its options as one frozen value, and the names and specs that follow from them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = "default/default"
BATCH_SIZE = 64
STEPS_WANTED = 450
"""Steps after which the small base has learned what it can from a few thousand rows; measured on two cores."""
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

    def training_spec(self, base: str, dataset: str, rows: int) -> dict[str, Any]:
        """The spec for `rows` training rows: many steps at a high rate for the stand-in, few and gentle ones else."""
        spec: dict[str, Any] = {"base": base, "dataset": dataset, "output": self.name, "batch_size": BATCH_SIZE}
        if self.base is not None:
            return {**spec, "epochs": self.epochs or 2, "learning_rate": 2e-5, "schedule": "cosine"}
        wanted = round(STEPS_WANTED * BATCH_SIZE / max(1, rows))
        return {**spec, "epochs": self.epochs or min(12, max(3, wanted))}

    def evaluation_spec(self, model: str, base: str, dataset: str) -> dict[str, Any]:
        return {"model": model, "base": base, "dataset": dataset, "split": "test"}


def to_name(text: str) -> str:
    """A name that the platform accepts, made of any text: `My File (2)` becomes `my-file-2`."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:64].strip("-._")
    return name or "data"
