"""A training spec as DeepSpeed's configuration, and the learning rate as a function of the step. Pure."""

from __future__ import annotations

import math
from typing import Any

from finmaas_training.spec import TrainingSpec

ADAM_BETAS = (0.9, 0.95)
_FINAL_SHARE = 0.01  # of the peak learning rate, at the end of a one-cycle schedule
_NEVER = 1_000_000_000


def deepspeed_config(spec: TrainingSpec, on_gpu: bool) -> dict[str, Any]:
    """The configuration for `deepspeed.initialize`. The optimizer's rate is set step by step by the loop.

    On CPU everything is one bucket and nothing overlaps: gloo has no streams to overlap with, and each further
    bucket is one more round trip. On GPUs DeepSpeed's own sizes and the overlap stay.
    """
    return {
        "train_batch_size": spec.batch_size,
        "train_micro_batch_size_per_gpu": micro_batch_size(spec),
        "gradient_accumulation_steps": spec.batch_size // spec.workers // micro_batch_size(spec),
        "gradient_clipping": spec.gradient_clip,
        "steps_per_print": _NEVER,
        "wall_clock_breakdown": False,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": spec.precision == "bf16"},
        "zero_optimization": _zero_on_gpu(spec) if on_gpu else _zero_on_cpu(spec),
    }


def micro_batch_size(spec: TrainingSpec) -> int:
    """Rows that one worker takes through the model at once."""
    return spec.micro_batch_size or spec.batch_size // spec.workers


def learning_rate_at(spec: TrainingSpec, step: int, total_steps: int) -> float:
    """The learning rate of step `step` (from 0): linear warm-up, then the schedule. Depends on nothing but these."""
    warmup = max(1, round(spec.warmup_fraction * total_steps))
    if step < warmup and spec.warmup_fraction > 0:
        return spec.learning_rate * (step + 1) / warmup
    if spec.schedule == "constant":
        return spec.learning_rate
    done = (step - warmup + 1) / max(1, total_steps - warmup)
    falling = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    floor = _FINAL_SHARE if spec.schedule == "one_cycle" else 0.1
    return spec.learning_rate * (floor + (1 - floor) * falling)


def _zero_on_gpu(spec: TrainingSpec) -> dict[str, Any]:
    common = {"stage": spec.zero_stage, "overlap_comm": True, "contiguous_gradients": True, "reduce_scatter": True}
    if spec.zero_stage == 2:
        return common
    return {**common, "stage3_gather_16bit_weights_on_model_save": True}


def _zero_on_cpu(spec: TrainingSpec) -> dict[str, Any]:
    common = {
        "stage": spec.zero_stage,
        "overlap_comm": False,
        "contiguous_gradients": False,
        "reduce_bucket_size": 500_000_000,
        "allgather_bucket_size": 500_000_000,
    }
    if spec.zero_stage == 2:
        return {**common, "round_robin_gradients": False}
    return {
        **common,
        "stage3_gather_16bit_weights_on_model_save": True,
        "stage3_prefetch_bucket_size": 500_000_000,
        "stage3_param_persistence_threshold": 100_000,
    }
