"""Screens the body of a request: which fields may be there at all, and what stands in every text of them.

Fails closed: with a guardrail on, a field that is not listed here, and content that cannot be read as text (token ids,
a remote image, an unknown kind of part), is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from finmaas_core.errors import BlockedByPolicy, InvalidInput
from finmaas_serving.guard.policy import Action, Guard
from finmaas_serving.guard.scanner import Hit
from finmaas_serving.guard.window import replace_all

_SAMPLING = """
    model stream stream_options n temperature top_p top_k min_p seed stop stop_token_ids max_tokens min_tokens
    max_completion_tokens presence_penalty frequency_penalty repetition_penalty length_penalty logit_bias logprobs
    top_logprobs prompt_logprobs user metadata response_format guided_json guided_regex guided_choice guided_grammar
    structured_outputs ignore_eos skip_special_tokens spaces_between_special_tokens include_stop_str_in_output
    truncate_prompt_tokens service_tier prompt_cache_key safety_identifier best_of echo suffix verbosity
"""
_CHAT = """
    messages tools tool_choice parallel_tool_calls reasoning_effort add_generation_prompt continue_final_message
    add_special_tokens chat_template_kwargs include_reasoning documents
"""
_EMBED = "model input encoding_format dimensions user metadata truncate_prompt_tokens"
FIELDS: Mapping[str, frozenset[str]] = {
    "/v1/chat/completions": frozenset((_SAMPLING + _CHAT).split()),
    "/v1/completions": frozenset((_SAMPLING + " prompt add_special_tokens").split()),
    "/v1/embeddings": frozenset(_EMBED.split()),
}
_MESSAGE = frozenset(
    ("role", "content", "name", "tool_calls", "tool_call_id", "refusal", "reasoning", "reasoning_content")
)
_PART_TEXT = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_TOKENS_IN = {"/v1/completions": "prompt", "/v1/embeddings": "input"}
_FIXED = frozenset(("model", "encoding_format"))
_decode = msgspec.json.Decoder().decode


class _PlainMessage(msgspec.Struct, forbid_unknown_fields=True):
    """A message of text alone."""

    role: str
    content: str
    name: str | None = None


_decode_plain_chat = msgspec.json.Decoder(list[_PlainMessage]).decode
_decode_plain_text = msgspec.json.Decoder(str | list[str]).decode


class Substitutions:
    """What `replace` put in place of personal data, for the life of one request: its answer turns it back."""

    __slots__ = ("_by_value", "by_name")

    def __init__(self) -> None:
        self.by_name: dict[str, str] = {}
        self._by_value: dict[tuple[str, str], str] = {}

    def name_of(self, rule: str, value: str) -> str:
        """`<cn_mobile_1>`: the same value has the same name all through the request."""
        known = self._by_value.get((rule, value))
        if known is None:
            known = f"<{rule}_{len(self.by_name) + 1}>"
            self._by_value[rule, value] = known
            self.by_name[known] = value
        return known


def screen_request(
    guard: Guard, path: str, body: bytes, fields: Mapping[str, Any]
) -> tuple[bytes | None, Substitutions]:
    """The body to send instead (None: as it is), and what was replaced in it.

    Raises BlockedByPolicy for what a rule refuses, InvalidInput for what cannot be checked; both name the field.
    """
    substitutions = Substitutions()
    if not guard.input.is_on:
        return None, substitutions
    _check_fields(path, fields)
    if _is_clean(guard, path, body, fields):
        return None, substitutions
    value = _decode(body)
    _check_shape(path, value)
    walker = _Walker(guard, substitutions)
    screened = {name: part if name in _FIXED else walker.walk(part, name) for name, part in value.items()}
    return (msgspec.json.encode(screened) if walker.changed else None), substitutions


def _is_clean(guard: Guard, path: str, body: bytes, fields: Mapping[str, Any]) -> bool:
    """Whether the bytes show that all is well, as those of most requests do. Parts and token ids are looked at."""
    if not guard.input.scanner.is_plain(body):
        return False
    try:
        if path == "/v1/chat/completions":
            _decode_plain_chat(fields["messages"])
        else:
            _decode_plain_text(fields[_TOKENS_IN[path]])
    except (KeyError, msgspec.DecodeError):
        return False
    return True


def _check_fields(path: str, fields: Mapping[str, Any]) -> None:
    unknown = fields.keys() - FIELDS[path]
    if unknown:
        name = min(unknown)
        raise InvalidInput(
            f"`{name}` cannot be checked, and the guardrails of this project let only known fields pass; leave it out",
            param=name,
        )


def _check_shape(path: str, value: Mapping[str, Any]) -> None:
    name = _TOKENS_IN.get(path)
    if name is not None:
        items = value.get(name)
        for item in items if isinstance(items, list) else [items]:
            if not isinstance(item, str):
                raise InvalidInput(f"`{name}` holds token ids, which guardrails cannot read; send text", param=name)
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
    unknown = message.keys() - _MESSAGE
    if unknown:
        param = f"{where}.{min(unknown)}"
        raise InvalidInput(f"`{param}` cannot be checked by the guardrails of this project; leave it out", param=param)
    content = message.get("content")
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InvalidInput(f"`{where}.content` must be text or a list of parts", param=f"{where}.content")
    for place, part in enumerate(content):
        _check_part(part, f"{where}.content[{place}]")


def _check_part(part: object, where: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind not in _PART_TEXT:
        raise InvalidInput(
            f"`{where}` is a part of the type {str(kind)[:40]!r}, which guardrails cannot read; send text parts only",
            param=where,
        )
    unknown = part.keys() - {"type", _PART_TEXT[kind]}
    if unknown or not isinstance(part.get(_PART_TEXT[kind]), str):
        raise InvalidInput(f"`{where}` must hold `type` and its text, and nothing else", param=where)


class _Walker:
    """Goes through JSON values and screens every string, names of fields included."""

    def __init__(self, guard: Guard, substitutions: Substitutions) -> None:
        self._side = guard.input
        self._substitutions = substitutions
        self.changed = False

    def walk(self, value: Any, where: str) -> Any:
        if isinstance(value, str):
            return self._text(value, where)
        if isinstance(value, list):
            return [self.walk(item, f"{where}[{place}]") for place, item in enumerate(value)]
        if isinstance(value, dict):
            return {self._name(name, where): self.walk(item, f"{where}.{name}") for name, item in value.items()}
        return value

    def _name(self, name: str, where: str) -> str:
        if self._screen(name, where) != name:
            raise BlockedByPolicy(f"the name of a field in `{where}` holds what this project masks", param=where)
        return name

    def _text(self, text: str, where: str) -> str:
        if where.endswith(".arguments") and text[:1] in "{[":
            return self._json_text(text, where)
        screened = self._screen(text, where)
        if screened is not text:
            self.changed = True
        return screened

    def _json_text(self, text: str, where: str) -> str:
        """Arguments of a tool are JSON inside a string: what stands in them is read, not how it is written."""
        try:
            value = _decode(text)
        except (msgspec.DecodeError, RecursionError):
            raise InvalidInput(f"`{where}` is not JSON, so guardrails cannot read it", param=where) from None
        before, self.changed = self.changed, False
        screened = self.walk(value, where.removesuffix(".arguments"))
        changed_here, self.changed = self.changed, self.changed or before
        return msgspec.json.encode(screened).decode() if changed_here else text

    def _screen(self, text: str, where: str) -> str:
        def replace(hit: Hit, found: str) -> str:
            action = self._side.actions[hit.rule.name]
            if action is Action.BLOCK:
                raise BlockedByPolicy(
                    f"`{where}` holds what this project does not send to models ({hit.rule.name}); take it out",
                    param=where,
                    rule=hit.rule.name,
                )
            if action is Action.REPLACE:
                return self._substitutions.name_of(hit.rule.name, found)
            return f"[{hit.rule.label}]"

        return replace_all(self._side.scanner, text, replace)
