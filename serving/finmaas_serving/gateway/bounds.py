"""The most that a call can use, before anything is known of its answer. Pure.

Tokens of a prompt: never more than its bytes, because every tokenizer served here falls back to bytes; plus what a
chat template adds. A prompt that holds more than text can be as long as the model's context.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from finmaas_serving.gateway.body import CallBody
from finmaas_serving.gateway.schemas import UsualChat

TEMPLATE_TOKENS: Final = 512  # what a template says of itself: system prompt, tools, dates
UNKNOWN_CONTEXT: Final = 131_072  # for an endpoint that does not tell its `max_model_len`
SILENT: Final = frozenset(("/v1/embeddings", "/v1/rerank", "/v1/score", "/v1/messages/count_tokens"))
_LIMITS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_NOT_TEXT: Final = (b"_url", b"image", b"audio", b"video", b"file")


def bound_call(path: str, body: CallBody, max_model_len: int | None) -> tuple[int, int]:
    """Tokens of the prompt and of the answer at most, all choices together."""
    context = max_model_len or UNKNOWN_CONTEXT
    if body.usual is not None and path not in SILENT:
        return bound_usual(body.usual, len(body.raw), max_model_len)
    fields = body.fields
    prompts = max(1, body.choices // max(1, body.samples))
    size = TEMPLATE_TOKENS + sum([len(memoryview(value)) for value in fields.values()])
    if "chat_template" in fields or (("messages" in fields or "input" in fields) and _holds_more(fields)):
        size = context * prompts
    prompt = size if path in SILENT else min(size, context * prompts)
    if path in SILENT:
        return prompt, 0
    longest = context
    for name in _LIMITS:
        raw = fields.get(name)
        if raw is not None:
            longest = min(longest, _number(raw, context))
    return prompt, longest * max(1, body.choices)


def bound_usual(usual: UsualChat, size_bytes: int, max_model_len: int | None) -> tuple[int, int]:
    """The same for texts and settings that have been read: the whole body is no shorter than its texts."""
    context = max_model_len or UNKNOWN_CONTEXT
    longest = context
    for limit in (usual.max_completion_tokens, usual.max_tokens):
        if limit is not None and 0 <= limit < longest:
            longest = limit
    return min(TEMPLATE_TOKENS + size_bytes, context), longest * max(1, usual.n)


def _holds_more(fields: Mapping[str, msgspec.Raw]) -> bool:
    """Whether a message holds something beside text. A hint in the bytes is enough: it only makes the bound wider."""
    for name in ("messages", "input"):
        raw = fields.get(name)
        if raw is None:
            continue
        text = bytes(raw)
        if b'"type"' not in text and b"\\u" not in text:
            continue
        if any(hint in text for hint in _NOT_TEXT) or b"\\u00" in text:
            return True
    return False


def _number(raw: msgspec.Raw, context: int) -> int:
    """What the engine will read there; what it will refuse bounds nothing."""
    digits = bytes(raw)
    return int(digits) if digits.isdigit() and len(digits) < 12 else context
