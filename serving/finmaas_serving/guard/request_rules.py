"""Which fields a request may hold while a guardrail looks at it, and what must stand in them to be readable.

One `RequestRules` a shape of the API. Here: chat, completions, embeddings. Whatever is not listed is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from finmaas_core.errors import InvalidInput

SAMPLING = """
    model stream stream_options n temperature top_p top_k min_p seed stop stop_token_ids max_tokens min_tokens
    max_completion_tokens presence_penalty frequency_penalty repetition_penalty length_penalty logit_bias logprobs
    top_logprobs prompt_logprobs user metadata response_format guided_json guided_regex guided_choice guided_grammar
    structured_outputs ignore_eos skip_special_tokens spaces_between_special_tokens include_stop_str_in_output
    truncate_prompt_tokens service_tier prompt_cache_key safety_identifier best_of echo suffix verbosity store
"""
_CHAT = """
    messages tools tool_choice parallel_tool_calls reasoning_effort add_generation_prompt continue_final_message
    add_special_tokens chat_template_kwargs include_reasoning documents
"""
_EMBED = "model input encoding_format dimensions user metadata truncate_prompt_tokens"
_MESSAGE = frozenset(
    ("role", "content", "name", "tool_calls", "tool_call_id", "refusal", "reasoning", "reasoning_content")
)
_PART_TEXT = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


@dataclass(frozen=True, slots=True)
class RequestRules:
    """`fields`: the known ones. `check_shape` raises InvalidInput for content that cannot be read as text.

    `is_plain`: whether the fields hold nothing but plain text, so that a look at the body's bytes is enough.
    """

    fields: frozenset[str]
    check_shape: Callable[[Mapping[str, Any]], None]
    is_plain: Callable[[Mapping[str, Any]], bool]


class PlainMessage(msgspec.Struct, forbid_unknown_fields=True):
    """A message of text alone."""

    role: str
    content: str
    name: str | None = None


_decode_messages = msgspec.json.Decoder(list[PlainMessage]).decode
_decode_text = msgspec.json.Decoder(str | list[str]).decode


def are_plain_messages(fields: Mapping[str, Any]) -> bool:
    """Whether `messages` are texts alone."""
    try:
        _decode_messages(fields["messages"])
    except (KeyError, msgspec.DecodeError):
        return False
    return True


def is_plain_text(raw: Any) -> bool:
    """Whether a raw value is a text or a list of texts."""
    try:
        _decode_text(raw)
    except (msgspec.DecodeError, TypeError):
        return False
    return True


def check_keys(value: Mapping[str, Any], known: frozenset[str] | set[str], where: str) -> None:
    """Refuses the first unknown field of an object inside the request."""
    unknown = value.keys() - known
    if unknown:
        param = f"{where}.{min(unknown)}"
        raise InvalidInput(f"`{param}` cannot be checked by the guardrails of this project; leave it out", param=param)


def items_of(value: object, where: str) -> list[Any]:
    """A list that may be left out."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidInput(f"`{where}` must be a list", param=where)
    return value


def check_text_part(part: object, where: str, texts: Mapping[str, str]) -> None:
    """Refuses a part of content that is not `type` and its text; `texts` names the field of each type's text."""
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str) or kind not in texts:
        raise unreadable(where, kind)
    unknown = part.keys() - {"type", texts[kind]}
    if unknown or not isinstance(part.get(texts[kind]), str):
        raise InvalidInput(f"`{where}` must hold `type` and its text, and nothing else", param=where)


def unreadable(where: str, kind: object) -> InvalidInput:
    """The refusal of a part that is not text."""
    return InvalidInput(
        f"`{where}` is a part of the type {str(kind)[:40]!r}, which guardrails cannot read; send text parts only",
        param=where,
    )


def _check_texts_of(name: str) -> Callable[[Mapping[str, Any]], None]:
    def check(value: Mapping[str, Any]) -> None:
        items = value.get(name)
        for item in items if isinstance(items, list) else [items]:
            if not isinstance(item, str):
                raise InvalidInput(f"`{name}` holds token ids, which guardrails cannot read; send text", param=name)

    return check


def _check_chat(value: Mapping[str, Any]) -> None:
    messages = value.get("messages")
    if messages is None:
        return
    if not isinstance(messages, list):
        raise InvalidInput("`messages` must be a list", param="messages")
    for place, message in enumerate(messages):
        _check_message(message, f"messages[{place}]")


def _check_message(message: object, where: str) -> None:
    if not isinstance(message, dict):
        raise InvalidInput(f"`{where}` must be an object", param=where)
    check_keys(message, _MESSAGE, where)
    content = message.get("content")
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InvalidInput(f"`{where}.content` must be text or a list of parts", param=f"{where}.content")
    for place, part in enumerate(content):
        check_text_part(part, f"{where}.content[{place}]", _PART_TEXT)


def _is_plain_field(name: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda fields: is_plain_text(fields.get(name))


CHAT = RequestRules(frozenset((SAMPLING + _CHAT).split()), _check_chat, are_plain_messages)
COMPLETIONS = RequestRules(
    frozenset((SAMPLING + " prompt add_special_tokens").split()), _check_texts_of("prompt"), _is_plain_field("prompt")
)
EMBEDDINGS = RequestRules(frozenset(_EMBED.split()), _check_texts_of("input"), _is_plain_field("input"))
