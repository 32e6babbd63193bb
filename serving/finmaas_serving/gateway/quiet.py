"""What clients are told of errors that others wrote: engines, which may quote a prompt, and providers outside.

A provider's words never reach a client: they may tell of an account that is the bank's. An engine's words are screened
as its answers are where the project's policy screens answers, and replaced where they cannot be; else they pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from finmaas_serving.gateway.cache import is_word
from finmaas_serving.gateway.traffic import EXTERNAL
from finmaas_serving.guard.answer import TextScreen, Withheld
from finmaas_serving.guard.policy import Guard

if TYPE_CHECKING:
    from finmaas_serving.gateway.errors import Problem
    from finmaas_serving.gateway.screen import BrokenGuard

OUTSIDE = "the provider outside refused the request or failed; its words are not passed on"
UNSCREENED = "the engine refused the request or failed; its words are withheld by policy"

_KINDS = frozenset(("type", "code", "param"))
Say = Callable[[str], str]
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def choose_words(role: str, guard: Guard | BrokenGuard | None, screen: object) -> Say | None:
    """What becomes of an error's text from who was asked in this role; None: it passes as it is."""
    if role == EXTERNAL:
        return lambda _: OUTSIDE
    if isinstance(screen, TextScreen):
        return lambda text: _screened(screen, text)
    if guard is None or (isinstance(guard, Guard) and not guard.output.is_on):
        return None
    return lambda _: UNSCREENED


def quiet_problem(problem: Problem, say: Say | None) -> Problem:
    """A refusal of the engine or provider, in words that may pass."""
    if say is None:
        return problem
    param = problem.param if is_word(problem.param) else None
    return replace(problem, message=say(problem.message), param=param)


def quiet_stream(data: bytes, say: Say | None) -> bytes:
    """The events of a stream that has failed: those that tell of the failure, in words that may pass."""
    return data if say is None else b"\n\n".join([_quiet_event(event, say) for event in data.split(b"\n\n")])


def _quiet_event(event: bytes, say: Say) -> bytes:
    head, mark, data = event.rpartition(b"data: ")
    if not mark or not data.startswith(b"{") or b'"error"' not in data:
        return event
    value = _decode(data)
    if value.get("type") == "error":
        value = _walk(value, say)
    if isinstance(value.get("error"), dict | str):
        value["error"] = _walk(value["error"], say)
    response = value.get("response")
    if isinstance(response, dict) and response.get("error"):
        response["error"] = _walk(response["error"], say)
    return head + mark + msgspec.json.encode(value)


def _walk(value: Any, say: Say) -> Any:
    if isinstance(value, str):
        return say(value)
    if isinstance(value, dict):
        words = {name: inner for name, inner in value.items() if is_word(name)}
        return {name: inner if _is_kind(name, inner) else _walk(inner, say) for name, inner in words.items()}
    if isinstance(value, list):
        return [_walk(inner, say) for inner in value]
    return value


def _is_kind(name: str, value: Any) -> bool:
    return name in _KINDS and is_word(value)


def _screened(screen: TextScreen, text: str) -> str:
    try:
        return screen.whole(text)
    except Withheld:
        return UNSCREENED
