"""The model of a training run: loading, its loss on the answers alone, and saving it as a Hugging Face folder.

Imports torch; met only inside training workers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from finmaas_core.errors import InvalidSpec
from finmaas_training.data import IGNORED

# Their logits are the output matrix times the last hidden state and nothing more, so it suffices to compute them
# where an answer token is predicted. Other architectures (soft caps, scaled logits) go through their own forward.
PLAIN_HEADS = {"llama", "mistral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "phi3"}


class AnswerLoss(nn.Module):  # type: ignore[misc]  # torch is not type-checked here
    """Wraps a causal language model: tokens and labels in, summed cross entropy over the answer tokens out.

    Rows are padded on the right and need no attention mask: a causal model's real tokens never look at padding, and
    padding carries no label.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._plain_head = model.config.model_type in PLAIN_HEADS

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Shapes: both [rows, tokens] int64; result: scalar float32."""
        targets = labels[:, 1:]
        counted = targets != IGNORED
        if self._plain_head:
            backbone = getattr(self.model, self.model.base_model_prefix)
            hidden = backbone(input_ids=input_ids, use_cache=False).last_hidden_state
            logits = self.model.get_output_embeddings()(hidden[:, :-1][counted])
        else:
            logits = self.model(input_ids=input_ids, use_cache=False).logits[:, :-1][counted]
        return functional.cross_entropy(logits.float(), targets[counted], reduction="sum")


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder. Raises InvalidSpec when it lacks a chat template or an end-of-sequence token."""
    # Straight from its module: the package's lazy front costs seconds of imports.
    from transformers.models.auto.tokenization_auto import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise InvalidSpec(f"the base in {folder.name} has no chat template; import it with a chat_template.jinja")
    if tokenizer.eos_token_id is None:
        raise InvalidSpec(f"the tokenizer of the base in {folder.name} has no end-of-sequence token; name one in it")
    return tokenizer


def longest_input(folder: Path) -> int | None:
    """How many tokens the model of a folder can take; None when its configuration does not say."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    limit = config.get("max_position_embeddings")
    return None if limit is None else int(limit)


def pad_id_of(tokenizer: Any) -> int:
    """The token that fills rows up; any will do, since nothing looks at it."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def load_model(folder: Path, precision: str) -> nn.Module:
    """The causal language model of a folder, without any code from it."""
    from transformers.models.auto.modeling_auto import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, trust_remote_code=False, attn_implementation="sdpa"
    )
    return model


def save_model(model: nn.Module, tokenizer: Any, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Writes configuration, tokenizer and the given weights (names as in `model`) as safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)
