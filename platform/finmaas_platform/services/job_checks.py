"""What can be said of a job before it runs: that its data and models fit what the spec asks of them."""

from __future__ import annotations

from finmaas_core.errors import InvalidSpec
from finmaas_platform.db.datasets import DatasetVersionRow
from finmaas_platform.db.models import ModelVersionRow
from finmaas_training.spec import EvaluationSpec, TrainingSpec

ANSWERED_SHAPES = ("classification", "instruction", "chat")
"""Shapes whose rows hold a prompt and an answer."""


def check_training(spec: TrainingSpec, dataset: DatasetVersionRow, base: ModelVersionRow) -> None:
    """Raises InvalidSpec for a training that cannot work."""
    _check_full(base, "base")
    _check_shape(dataset)
    _check_split(dataset, "train")


def check_evaluation(
    spec: EvaluationSpec, dataset: DatasetVersionRow, subject: ModelVersionRow, base: ModelVersionRow | None
) -> None:
    """Raises InvalidSpec for an evaluation that cannot work."""
    _check_full(subject, "model")
    if base is not None:
        _check_full(base, "base")
        if base.id == subject.id:
            raise InvalidSpec(f"`base` and `model` are both {subject.ref}; leave `base` out or name the untuned model")
    _check_shape(dataset)
    _check_split(dataset, spec.split)


def _check_full(version: ModelVersionRow, field: str) -> None:
    if version.kind != "full":
        raise InvalidSpec(f"`{field}` is {version.ref}, an {version.kind}; give a model version with full weights")


def _check_shape(dataset: DatasetVersionRow) -> None:
    if dataset.shape not in ANSWERED_SHAPES:
        wanted = ", ".join(ANSWERED_SHAPES)
        raise InvalidSpec(f"`dataset` {dataset.ref} has the shape {dataset.shape}; this needs one of {wanted}")


def _check_split(dataset: DatasetVersionRow, split: str) -> None:
    if not dataset.splits.get(split):
        has = ", ".join(f"{name}: {rows}" for name, rows in dataset.splits.items()) or "none"
        raise InvalidSpec(f"{dataset.ref} has no rows in its {split} split ({has}); import it with other shares")
