"""What a request to `/v1/responses` may hold while a guardrail looks at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from finmaas_core.errors import InvalidInput
from finmaas_serving.guard.request_rules import RequestRules, check_keys, check_text_part, items_of

_FIELDS = """
    model input instructions max_output_tokens max_tool_calls metadata parallel_tool_calls reasoning include_reasoning
    service_tier store background stream stream_options temperature text tool_choice tools top_logprobs top_p top_k
    truncation user presence_penalty frequency_penalty repetition_penalty seed stop ignore_eos skip_special_tokens
    include_stop_str_in_output structured_outputs logit_bias include prompt_cache_key prompt_cache_retention
    safety_identifier chat_template_kwargs previous_response_id conversation prompt
"""
_IN_TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
_MESSAGE = frozenset(("type", "role", "content", "id", "status", "phase"))
_CALL = frozenset(("type", "id", "call_id", "name", "arguments", "status", "namespace"))
_OUTPUT = frozenset(("type", "id", "call_id", "output", "status"))
_REASONING = frozenset(("type", "id", "summary", "content", "encrypted_content", "status"))
_EMPTY: tuple[object, ...] = (None, [])


def _check_responses(value: Mapping[str, Any]) -> None:
    for place, tool in enumerate(items_of(value.get("tools"), "tools")):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind != "function":
            where = f"tools[{place}]"
            raise InvalidInput(
                f"`{where}` is a tool of the type {str(kind)[:40]!r}, which guardrails cannot watch; "
                "only functions that the client runs itself are let through",
                param=where,
            )
    items = value.get("input")
    if isinstance(items, str):
        return
    if not isinstance(items, list):
        raise InvalidInput("`input` must be text or a list of items", param="input")
    for place, item in enumerate(items):
        _check_item(item, f"input[{place}]")


def _check_item(item: object, where: str) -> None:
    if not isinstance(item, dict):
        raise InvalidInput(f"`{where}` must be an object", param=where)
    kind = item.get("type", "message")
    check = _ITEMS.get(kind) if isinstance(kind, str) else None
    if check is None:
        raise InvalidInput(f"`{where}` is of the type {str(kind)[:40]!r}, which guardrails cannot read", param=where)
    check(item, where)


def _check_message(item: dict[str, Any], where: str) -> None:
    check_keys(item, _MESSAGE, where)
    _check_content(item.get("content"), f"{where}.content")


def _check_content(content: object, where: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InvalidInput(f"`{where}` must be text or a list of parts", param=where)
    for place, part in enumerate(content):
        check_text_part(_without_empty(part), f"{where}[{place}]", _IN_TEXTS)


def _without_empty(part: object) -> object:
    """A part of an earlier answer without the fields that hold nothing."""
    if not isinstance(part, dict):
        return part
    return {k: v for k, v in part.items() if k not in ("annotations", "logprobs") or v not in _EMPTY}


def _check_call(item: dict[str, Any], where: str) -> None:
    check_keys(item, _CALL, where)
    if not isinstance(item.get("arguments"), str):
        raise InvalidInput(f"`{where}.arguments` must be text", param=f"{where}.arguments")


def _check_output(item: dict[str, Any], where: str) -> None:
    check_keys(item, _OUTPUT, where)
    _check_content(item.get("output"), f"{where}.output")


def _check_reasoning(item: dict[str, Any], where: str) -> None:
    check_keys(item, _REASONING, where)
    if item.get("encrypted_content") is not None:
        param = f"{where}.encrypted_content"
        raise InvalidInput(f"`{param}` cannot be read by the guardrails of this project; leave it out", param=param)
    for name, kind in (("summary", "summary_text"), ("content", "reasoning_text")):
        for place, part in enumerate(items_of(item.get(name), f"{where}.{name}")):
            check_text_part(part, f"{where}.{name}[{place}]", {kind: "text"})


_ITEMS: Mapping[str, Callable[[dict[str, Any], str], None]] = {
    "message": _check_message,
    "function_call": _check_call,
    "function_call_output": _check_output,
    "reasoning": _check_reasoning,
}
_decode_text = msgspec.json.Decoder(str).decode


def _is_plain(fields: Mapping[str, Any]) -> bool:
    if "tools" in fields:
        return False
    try:
        _decode_text(fields["input"])
    except (KeyError, msgspec.DecodeError):
        return False
    return True


RESPONSES = RequestRules(frozenset(_FIELDS.split()), _check_responses, _is_plain)
