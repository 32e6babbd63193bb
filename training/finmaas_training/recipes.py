"""Training settings that fit the size of the data, for the small base that `base_model.py` builds.

A real base has learned its language already and wants far fewer steps at a far lower rate: these figures are not for
it. Light on purpose, so that the control plane and the demo can ask without torch.
"""

from __future__ import annotations

import math
from typing import Any

WANTED_STEPS = 1350  # at 64 rows a step; docs/benchmarks-demo.md has what fewer and more steps reach
USUAL_CHARS = 150.0  # texts up to this mean length cost about the same; longer ones get fewer passes
MOST_EPOCHS, FEWEST_EPOCHS = 40, 2


def recommended_training(rows: int, mean_chars: float, seed: int) -> dict[str, Any]:
    """Fields of a TrainingSpec (all but base, dataset, output) for `rows` training rows of that mean length.

    Few rows are seen more often, many rows less often, so that training takes a like time for short texts.
    """
    batch_size = 64 if rows >= 1024 else 32 if rows >= 256 else 16
    shorter = min(1.0, USUAL_CHARS / max(mean_chars, 1.0))
    epochs = round(WANTED_STEPS * 64 * shorter / max(rows, 1))
    epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, epochs))
    steps = epochs * math.ceil(rows / batch_size)
    return {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": 2e-3,
        "schedule": "one_cycle",
        "warmup_fraction": 0.1,
        "weight_decay": 0.01,
        "token_dropout": 0.1,
        "max_length": 256 if mean_chars <= 2 * USUAL_CHARS else 1024,
        "precision": "bf16",
        "seed": seed,
        "checkpoint_every_steps": min(500, max(50, steps // 6)),
    }
