"""What can be said of a job before it runs: that its data and models fit what the spec asks of them.

Whether the cluster can hold it is for the job's driver to say, which sees the cluster: it refuses at once and for good.
"""

from __future__ import annotations

import json

from finmaas_core.errors import InvalidSpec, NotFound
from finmaas_platform.db.datasets import DatasetVersionRow
from finmaas_platform.db.models import ModelVersionRow
from finmaas_registry.store import BlobStore
from finmaas_training.spec import EvaluationSpec, TrainingSpec
from finmaas_training.validate import ANSWERED_SHAPES, TrainingFacts, validate_training

MAX_CONFIG_BYTES = 1024 * 1024


def check_training(
    spec: TrainingSpec, dataset: DatasetVersionRow, base: ModelVersionRow, base_context: int | None
) -> None:
    """Raises InvalidSpec for a training that cannot work; `base_context` is what `find_context_length` told."""
    facts = TrainingFacts(
        shape=dataset.shape,
        splits=dataset.splits,
        base_kind="adapter" if base.kind == "adapter" else "full",
        base_context=base_context,
    )
    validate_training(spec, facts)


def check_evaluation(
    spec: EvaluationSpec, dataset: DatasetVersionRow, subject: ModelVersionRow, base: ModelVersionRow | None
) -> None:
    """Raises InvalidSpec for an evaluation that cannot work."""
    for field, version in (("model", subject), ("base", base)):
        if version is not None and version.kind == "adapter":
            raise InvalidSpec(f"`{field}` is {version.ref}, an {version.kind}; give a version with full weights")
    if base is not None and base.id == subject.id:
        raise InvalidSpec(f"`base` and `model` are both {subject.ref}; leave `base` out or name the untuned model")
    if dataset.shape not in ANSWERED_SHAPES:
        wanted = ", ".join(ANSWERED_SHAPES)
        raise InvalidSpec(f"dataset {spec.dataset} has the shape {dataset.shape}; an evaluation needs one of {wanted}")
    if not dataset.splits.get(spec.split):
        has = ", ".join(f"{name}: {rows}" for name, rows in dataset.splits.items()) or "none"
        raise InvalidSpec(f"{dataset.ref} has no rows in its {spec.split} split ({has}); import it with other shares")


def find_context_length(store: BlobStore, version: ModelVersionRow) -> int | None:
    """The longest text a model can read, in tokens, by its config.json; None where that does not tell."""
    config = next((file for file in version.files if file["path"] == "config.json"), None)
    if config is None or config["size"] > MAX_CONFIG_BYTES:
        return None
    try:
        content = json.loads(b"".join(store.open(config["sha256"])))
    except (NotFound, ValueError):
        return None
    length = content.get("max_position_embeddings") if isinstance(content, dict) else None
    return length if isinstance(length, int) and length > 0 else None
