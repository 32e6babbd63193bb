"""Refuses what cannot work before anything is started, each with its reason and the way out. Pure.

`validate_training` is for the control plane, which knows the inputs; `validate_placement` for the job's driver, which
knows the cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from finmaas_core.errors import InvalidSpec
from finmaas_training.spec import TrainingSpec

ANSWERED_SHAPES = ("classification", "instruction", "chat")
"""Shapes whose rows hold a prompt and the answer to learn."""

LARGEST_CPU_PARAMETERS = 1_500_000_000  # beyond this a step on CPU takes minutes


@dataclass(frozen=True)
class ClusterFacts:
    """Slots of the cluster that a job may ask for, free or not."""

    cpus: int
    gpus: int = 0


@dataclass(frozen=True)
class TrainingFacts:
    """What is known of a training's inputs; None where it is not. `cluster` is None while none answers."""

    shape: str
    splits: Mapping[str, int] = field(default_factory=dict)
    base_kind: str = "full"
    base_context: int | None = None
    base_parameters: int | None = None
    cluster: ClusterFacts | None = None


def validate_training(spec: TrainingSpec, facts: TrainingFacts) -> None:
    """Raises InvalidSpec for the first thing that cannot work."""
    for problem in (_find_arithmetic(spec), _find_unfit_inputs(spec, facts)):
        if problem:
            raise InvalidSpec(problem)
    if facts.cluster is not None:
        validate_placement(spec, facts.cluster)
        _check_size(spec, facts, facts.cluster)


def validate_placement(spec: TrainingSpec, cluster: ClusterFacts) -> None:
    """Raises InvalidSpec when the cluster could never hold the workers, even empty."""
    if problem := _find_unplaceable(spec, cluster):
        raise InvalidSpec(problem)


def choose_device(spec: TrainingSpec, cluster: ClusterFacts) -> Literal["cpu", "gpu"]:
    """Where the workers run: as asked, or on GPUs when there is one for each."""
    if spec.device == "auto":
        return "gpu" if cluster.gpus >= spec.workers else "cpu"
    return spec.device


def _find_arithmetic(spec: TrainingSpec) -> str | None:
    if spec.batch_size % spec.workers:
        nearest = max(1, round(spec.batch_size / spec.workers)) * spec.workers
        return f"batch_size {spec.batch_size} cannot be dealt to {spec.workers} workers; use {nearest}"
    share = spec.batch_size // spec.workers
    if spec.micro_batch_size is not None and share % spec.micro_batch_size:
        return (
            f"micro_batch_size {spec.micro_batch_size} does not divide the {share} rows of each worker "
            f"(batch_size / workers); use a divisor of {share}"
        )
    return None


def _find_unfit_inputs(spec: TrainingSpec, facts: TrainingFacts) -> str | None:
    if facts.base_kind != "full":
        return f"base {spec.base} is an {facts.base_kind}; start from a model version with full weights"
    if facts.shape not in ANSWERED_SHAPES:
        wanted = ", ".join(ANSWERED_SHAPES)
        return f"dataset {spec.dataset} has the shape {facts.shape}; method {spec.method} needs one of {wanted}"
    if not facts.splits.get("train"):
        has = ", ".join(f"{name}: {rows}" for name, rows in facts.splits.items()) or "none"
        return f"dataset {spec.dataset} has no rows in its train split ({has}); import it with other shares"
    if facts.base_context is not None and spec.max_length > facts.base_context:
        return (
            f"max_length {spec.max_length} exceeds the context of {spec.base}, {facts.base_context} tokens; "
            f"use at most {facts.base_context}"
        )
    return None


def _find_unplaceable(spec: TrainingSpec, cluster: ClusterFacts) -> str | None:
    if spec.device == "gpu" and cluster.gpus < spec.workers:
        return (
            f"{spec.workers} workers need {spec.workers} GPUs and the cluster has {cluster.gpus}; "
            "lower workers, or set device to auto or cpu"
        )
    if cluster.cpus < spec.workers:
        return f"{spec.workers} workers need {spec.workers} CPU slots and the cluster has {cluster.cpus}; lower workers"
    return None


def _check_size(spec: TrainingSpec, facts: TrainingFacts, cluster: ClusterFacts) -> None:
    parameters = facts.base_parameters
    if parameters is None or choose_device(spec, cluster) == "gpu":
        return
    if parameters > LARGEST_CPU_PARAMETERS:
        raise InvalidSpec(
            f"base {spec.base} has {parameters / 1e9:.1f} billion parameters, too many to train on CPU (at most "
            f"{LARGEST_CPU_PARAMETERS / 1e9:.1f}); add GPUs or start from a smaller base"
        )
