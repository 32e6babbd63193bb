"""Rows of a dataset version become token batches. Pure: no torch, no files, no randomness but the seed's.

The prompt is what the tokenizer's chat template gives, exactly as the evaluation and the serving engine render it;
loss falls on the answer alone.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finmaas_core.errors import InvalidInput

IGNORED = -100  # label of tokens without loss, as torch's cross entropy has it
BUCKET_BATCHES = 16  # so many batches are sorted by length together: little padding, still well mixed

Message = dict[str, str]


@dataclass(frozen=True)
class Example:
    """One row as tokens: `tokens[answer_start:]` is the answer (with its end-of-sequence token)."""

    tokens: tuple[int, ...]
    answer_start: int

    @property
    def answer_tokens(self) -> int:
        return len(self.tokens) - self.answer_start


@dataclass(frozen=True)
class Batch:
    """Right-padded arrays, both [rows, tokens] int64; `labels` are IGNORED outside the answers."""

    input_ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


def rows_to_messages(shape: str, row: Mapping[str, Any]) -> list[Message]:
    """A row as a conversation that ends with the wanted answer. Shapes: classification, instruction, chat."""
    if shape == "classification":
        return [_message("user", row["text"]), _message("assistant", row["label"])]
    if shape == "instruction":
        extra = row.get("input") or ""
        prompt = f"{row['instruction']}\n\n{extra}" if extra else row["instruction"]
        return [_message("user", prompt), _message("assistant", row["output"])]
    if shape == "chat":
        messages = [_message(turn["role"], turn["content"]) for turn in row["messages"]]
        if not messages or messages[-1]["role"] != "assistant":
            raise InvalidInput(
                f"row {row.get('_row', '?')}: a chat must end with the assistant's answer to be learned from"
            )
        return messages
    raise InvalidInput(f"rows of shape {shape!r} cannot be fine-tuned on; use classification, instruction or chat")


def render_prompt(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The text the model sees before it answers: `messages` without the answer, through the chat template."""
    text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return text


def encode_example(tokenizer: Any, messages: Sequence[Message], max_length: int) -> tuple[list[int], list[int]]:
    """Tokens and labels of a conversation, at most `max_length` each; labels are IGNORED before the answer."""
    example = encode_examples(tokenizer, [messages], max_length)[0]
    labels = [IGNORED] * example.answer_start + list(example.tokens[example.answer_start :])
    return list(example.tokens), labels


def encode_examples(tokenizer: Any, chats: Sequence[Sequence[Message]], max_length: int) -> list[Example]:
    """Encodes many conversations at once. Too long a prompt loses its beginning, too long an answer its end."""
    if not chats:
        return []
    prompts = tokenizer([render_prompt(tokenizer, chat[:-1]) for chat in chats], add_special_tokens=False)["input_ids"]
    answers = tokenizer([chat[-1]["content"] for chat in chats], add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    return [_join(prompt, [*answer, end], max_length) for prompt, answer in zip(prompts, answers, strict=True)]


def count_batches(rows: int, batch_size: int) -> int:
    """Optimizer steps of one epoch; the last batch is filled up from the epoch's first rows."""
    return -(-rows // batch_size)


def plan_epoch(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The row indices of every batch of an epoch, in order; the same (seed, epoch) always gives the same plan.

    Rows are shuffled, sorted by length inside buckets of BUCKET_BATCHES batches, and the batches shuffled again.
    Within a batch rows run from short to long, so that dealing them round-robin gives every worker like lengths.
    """
    rng = random.Random(f"{seed}/{epoch}")  # noqa: S311 - reproducible order, nothing secret
    order = list(range(len(lengths)))
    rng.shuffle(order)
    wanted = count_batches(len(order), batch_size) * batch_size
    order = [order[i % len(order)] for i in range(wanted)]
    batches: list[list[int]] = []
    bucket = batch_size * BUCKET_BATCHES
    for start in range(0, wanted, bucket):
        part = sorted(order[start : start + bucket], key=lambda row: lengths[row])
        batches.extend(part[i : i + batch_size] for i in range(0, len(part), batch_size))
    rng.shuffle(batches)
    return batches


def share_of(batch: Sequence[int], rank: int, workers: int) -> list[int]:
    """The rows of a batch that one worker takes."""
    return list(batch[rank::workers])


def hide_tokens(example: Example, share: float, hidden_id: int, kept: Collection[int], seed: str) -> Example:
    """The example with about `share` of its prompt tokens replaced by `hidden_id`; the answer stays whole.

    `kept` tokens are never hidden: those that mark the turns. The same seed hides the same places.
    """
    rng = random.Random(seed)  # noqa: S311 - reproducible, nothing secret
    prompt, answer = example.tokens[: example.answer_start], example.tokens[example.answer_start :]
    shown = [hidden_id if rng.random() < share and token not in kept else token for token in prompt]
    return Example((*shown, *answer), example.answer_start)


def collate(examples: Iterable[Example], pad_id: int, multiple_of: int = 8) -> Batch:
    """Pads to the longest row, rounded up to a multiple that matrix kernels like."""
    rows = list(examples)
    longest = max(len(row.tokens) for row in rows)
    width = -(-longest // multiple_of) * multiple_of
    input_ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    labels = np.full((len(rows), width), IGNORED, dtype=np.int64)
    for i, row in enumerate(rows):
        input_ids[i, : len(row.tokens)] = row.tokens
        labels[i, row.answer_start : len(row.tokens)] = row.tokens[row.answer_start :]
    return Batch(input_ids, labels)


def _message(role: str, content: Any) -> Message:
    return {"role": role, "content": str(content)}


def _join(prompt: list[int], answer: list[int], max_length: int) -> Example:
    # At least one prompt token stays: a model that sees nothing cannot learn to answer.
    answer = answer[: max_length - 1]
    prompt = prompt[-(max_length - len(answer)) :]
    return Example(tuple(prompt + answer), len(prompt))
