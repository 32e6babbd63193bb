"""Answers of a model folder to many prompts: greedy, in batches, with the KV cache. On a CPU or one GPU.

Not a server: an endpoint runs vLLM. This exists so that an evaluation needs no endpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finmaas_core.errors import InvalidSpec
from finmaas_training.data import Message, render_prompt

OnBatch = Callable[[int], None]
"""Called after every batch with the number of prompts answered so far."""


@dataclass(frozen=True)
class Generator:
    """A loaded model with its tokenizer; the tokenizer pads on the left."""

    model: Any
    tokenizer: Any
    device: torch.device

    @property
    def positions(self) -> int:
        """The longest prompt plus answer, in tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 4096)


def load_generator(folder: Path, base: Path | None, device: str) -> Generator:
    """Load full weights, or an adapter (a folder with adapter_config.json) on `base`.

    `device` is auto, cpu or gpu. Raises InvalidSpec for a GPU that is not there or an adapter without its base.
    """
    place = _device(device)
    dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
    adapter = (folder / "adapter_config.json").exists()
    if adapter and base is None:
        raise InvalidSpec(f"{folder.name} is an adapter; name its base model version as `base`")
    weights = base if adapter and base is not None else folder
    tokenizer = AutoTokenizer.from_pretrained(
        folder if (folder / "tokenizer_config.json").exists() else weights, local_files_only=True
    )
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(weights, dtype=dtype, local_files_only=True)
    if adapter:
        from peft import PeftModel  # only an adapter needs it

        model = PeftModel.from_pretrained(model, folder)
    return Generator(model.to(place).eval(), tokenizer, place)


def answer_all(
    generator: Generator,
    chats: Sequence[Sequence[Message]],
    *,
    max_new_tokens: int,
    batch_size: int,
    on_batch: OnBatch = lambda done: None,
) -> list[str | None]:
    """The answer to every conversation, in its order; None where the model did not finish within `max_new_tokens`.

    A prompt too long for the model loses its beginning, as in training.
    """
    room = generator.positions - max_new_tokens
    encoded = generator.tokenizer(
        [render_prompt(generator.tokenizer, chat) for chat in chats], add_special_tokens=False
    )
    prompts = [ids[-room:] for ids in encoded["input_ids"]]
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))  # longest first: memory trouble shows at once
    answers: list[str | None] = [None] * len(prompts)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        outputs = _answer_batch(generator, [prompts[i] for i in chosen], max_new_tokens)
        for i, answer in zip(chosen, outputs, strict=True):
            answers[i] = answer
        on_batch(start + len(chosen))
    return answers


@torch.inference_mode()  # type: ignore[untyped-decorator]
def _answer_batch(generator: Generator, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str | None]:
    tokenizer = generator.tokenizer
    padded = tokenizer.pad({"input_ids": [list(ids) for ids in prompts]}, return_tensors="pt").to(generator.device)
    width = padded["input_ids"].shape[1]
    output = generator.model.generate(
        input_ids=padded["input_ids"],
        attention_mask=padded["attention_mask"],
        max_new_tokens=max_new_tokens,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    return [_finished_text(tokenizer, ids) for ids in output[:, width:].tolist()]


def _finished_text(tokenizer: Any, ids: list[int]) -> str | None:
    if tokenizer.eos_token_id not in ids:
        return None
    text: str = tokenizer.decode(ids[: ids.index(tokenizer.eos_token_id)], skip_special_tokens=True)
    return text.strip()


def _device(wanted: str) -> torch.device:
    if wanted == "gpu" and not torch.cuda.is_available():
        raise InvalidSpec("the evaluation asks for device `gpu`, but this machine shows none; use `auto` or `cpu`")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")
