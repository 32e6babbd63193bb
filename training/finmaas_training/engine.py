"""DeepSpeed around a model: made, saved to and restored from a folder, and its weights gathered.

The rest of the package meets DeepSpeed only through this module.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finmaas_training.deepspeed_config import ADAM_BETAS, deepspeed_config
from finmaas_training.model import AnswerLoss
from finmaas_training.spec import TrainingSpec

_TAG = "state"


def import_deepspeed(on_gpu: bool) -> Any:
    """Imports DeepSpeed for the device at hand, without its start-up compilation.

    On CPU it would compile a shared-memory all-reduce (20 s of g++) that only inference uses; telling it that no op
    is compatible skips that, and the probing of every other op.
    """
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    import deepspeed.ops

    if not on_gpu:
        deepspeed.ops.__compatible_ops__ = {}
    return deepspeed


def sharded_init(spec: TrainingSpec, on_gpu: bool) -> Any:
    """For ZeRO-3: while the returned object lives, `from_pretrained` shards weights as it loads them."""
    if spec.zero_stage != 3:
        return None
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    _join_process_group(import_deepspeed(on_gpu), on_gpu)  # it counts the workers
    return HfDeepSpeedConfig(deepspeed_config(spec, on_gpu))


def make_engine(model: nn.Module, spec: TrainingSpec, on_gpu: bool) -> Any:
    """A DeepSpeed engine over `AnswerLoss(model)`, on the process group that Ray Train has set up."""
    deepspeed = import_deepspeed(on_gpu)
    _join_process_group(deepspeed, on_gpu)
    wrapped = AnswerLoss(model)
    optimizer = torch.optim.AdamW(_parameter_groups(wrapped, spec), lr=spec.learning_rate, betas=ADAM_BETAS, fused=True)
    engine, *_ = deepspeed.initialize(
        model=wrapped,
        optimizer=optimizer,
        config=deepspeed_config(spec, on_gpu),
        dist_init_required=False,
    )
    return engine


def set_learning_rate(engine: Any, rate: float) -> None:
    """The rate of the next step."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def save_state(engine: Any, folder: Path, state: dict[str, Any]) -> None:
    """Writes this rank's part of the training state below its own folder. All ranks call it together."""
    engine.save_checkpoint(str(folder), tag=_TAG, client_state=state, save_latest=False)


def load_state(engine: Any, folder: Path) -> dict[str, Any]:
    """Restores what `save_state` wrote (all ranks' parts in one folder); returns the state given then."""
    # DeepSpeed's files are pickles, but they come from this very job and were checked by digest.
    path, state = engine.load_checkpoint(str(folder), tag=_TAG)
    if path is None:
        raise RuntimeError(f"DeepSpeed found no training state in {folder}")
    return dict(state)


def gather_weights(engine: Any, spec: TrainingSpec) -> dict[str, torch.Tensor]:
    """All weights on the CPU of rank 0 (empty elsewhere), by the names of the wrapped model. Called by all ranks."""
    model: nn.Module = engine.module.model
    if spec.zero_stage < 3:
        return _to_cpu(model.state_dict()) if engine.global_rank == 0 else {}
    import deepspeed

    gathered: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        with deepspeed.zero.GatheredParameters([parameter]):
            if engine.global_rank == 0:
                gathered[name] = parameter.detach().cpu().clone()
    if engine.global_rank == 0:
        gathered.update({name: buffer for name, buffer in model.state_dict().items() if name not in gathered})
    return gathered


def _join_process_group(deepspeed: Any, on_gpu: bool) -> None:
    """Takes over the process group that is there; a second call does nothing."""
    deepspeed.init_distributed(dist_backend="nccl" if on_gpu else "gloo", verbose=False)


def _to_cpu(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in weights.items()}


def _parameter_groups(model: nn.Module, spec: TrainingSpec) -> list[dict[str, Any]]:
    """Matrices decay; norms and biases do not."""
    matrices = [p for p in model.parameters() if p.requires_grad and _dimensions(p) >= 2]
    vectors = [p for p in model.parameters() if p.requires_grad and _dimensions(p) < 2]
    groups = [
        {"params": matrices, "weight_decay": spec.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _dimensions(parameter: nn.Parameter) -> int:
    # Under ZeRO-3 the tensor itself is an empty shard; `ds_shape` keeps the true shape.
    return len(getattr(parameter, "ds_shape", parameter.shape))
