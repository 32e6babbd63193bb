"""Screens the body of a request: which fields may be there at all, and what stands in every text of them.

Fails closed: with a guardrail on, a field that is not listed here, and content that cannot be read as text (token ids,
a remote image, an unknown kind of part), is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from finmaas_core.errors import BlockedByPolicy, InvalidInput
from finmaas_serving.guard.messages_request import MESSAGES
from finmaas_serving.guard.policy import Action, Guard
from finmaas_serving.guard.request_rules import CHAT, COMPLETIONS, EMBEDDINGS, RequestRules, are_plain_messages
from finmaas_serving.guard.responses_request import RESPONSES
from finmaas_serving.guard.scanner import Hit
from finmaas_serving.guard.scores_request import RERANK, SCORE
from finmaas_serving.guard.window import replace_all, tell_number

RULES: Mapping[str, RequestRules] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": MESSAGES,
    "/v1/rerank": RERANK,
    "/v1/score": SCORE,
}
_FIXED = frozenset(("model", "encoding_format"))
_TOLD = ("messages[", "input[")  # where numbers are content; elsewhere they are settings
_decode = msgspec.json.Decoder().decode


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
    guard: Guard, path: str, body: bytes, fields: Mapping[str, Any], *, plain: bool = False
) -> tuple[bytes | None, Substitutions]:
    """The body to send instead (None: as it is), and what was replaced in it. `plain`: messages are texts alone.

    Raises BlockedByPolicy for what a rule refuses, InvalidInput for what cannot be checked; both name the field.
    """
    substitutions = Substitutions()
    if not guard.reads_requests:
        return None, substitutions
    rules = RULES[path]
    _check_fields(rules.fields, fields)
    # The bytes show that all is well, as those of most requests do. Parts and token ids are looked at.
    known = plain and rules.is_plain is are_plain_messages
    if guard.input.scanner.is_plain(body) and (known or rules.is_plain(fields)):
        return None, substitutions
    value = _decode(body)
    rules.check_shape(value)
    walker = _Walker(guard, substitutions)
    screened = {name: part if name in _FIXED else walker.walk(part, name) for name, part in value.items()}
    return (msgspec.json.encode(screened) if walker.changed else None), substitutions


def _check_fields(known: frozenset[str], fields: Mapping[str, Any]) -> None:
    if not known.issuperset(fields):
        name = min(fields.keys() - known)
        raise InvalidInput(
            f"`{name}` cannot be checked, and the guardrails of this project let only known fields pass; leave it out",
            param=name,
        )


class _Walker:
    """Goes through JSON values and screens every string, names of fields included, and the numbers of conversations."""

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
        if isinstance(value, int | float) and not isinstance(value, bool) and where.startswith(_TOLD):
            return self._number(value, where)
        return value

    def _number(self, value: float, where: str) -> Any:
        """What a tool is given may be a number that is a telephone's or a card's."""
        text = tell_number(value)
        screened = self._screen(text, where)
        if screened == text:
            return value
        self.changed = True
        return screened

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
