"""Answers kept for requests that come again, letter by letter, within one project. On by policy only; in memory only.

What is kept is the engine's own answer: a hit is screened, marked and sealed anew, so a policy that changed in between
holds. A request that holds personal data is not kept unless the policy says so. Streams are not kept.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from finmaas_core.text_rules import RULES, Group
from finmaas_serving.guard.scanner import Scanner

if TYPE_CHECKING:
    from finmaas_serving.gateway.body import CallBody
    from finmaas_serving.gateway.snapshot import Key, Route
    from finmaas_serving.guard.policy import Guard

MAX_BYTES = 64 * 1024 * 1024
MAX_ANSWER_BYTES = 256 * 1024
# What does not change an answer's content, or is checked elsewhere.
_NOT_COMPARED = frozenset(("user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier"))
_ECHOES = "/v1/responses"  # its answers tell metadata and user again
_KINDS = frozenset(("role", "type"))
_WORD_CHARS = 40
_encode = msgspec.json.Encoder(order="sorted").encode


class _Held(NamedTuple):
    expires_at: float
    body: bytes


class AnswerCache:
    """The answers of one gateway process; what was used longest ago leaves first."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        self._max_bytes = max_bytes
        self.size_bytes = 0

    def find(self, name: bytes, now: float) -> bytes | None:
        """The answer under a name, if it still holds."""
        held = self._held.get(name)
        if held is None:
            return None
        if held.expires_at <= now:
            self._drop(name)
            return None
        self._held.move_to_end(name)
        return held.body

    def store(self, name: bytes, body: bytes, expires_at: float) -> None:
        """Keeps an answer; one that is very long is not kept."""
        if len(body) > min(MAX_ANSWER_BYTES, self._max_bytes):
            return
        self._drop(name)
        self._held[name] = _Held(expires_at, body)
        self.size_bytes += len(body)
        while self.size_bytes > self._max_bytes:
            self._drop(next(iter(self._held)))

    def _drop(self, name: bytes) -> None:
        held = self._held.pop(name, None)
        if held is not None:
            self.size_bytes -= len(held.body)


@dataclass(slots=True)
class Slot:
    """The place of one request's answer in the cache; for answers of one target, not of a fallback in its place."""

    cache: AnswerCache
    name: bytes
    ttl_s: float
    target_id: str

    def find(self, now: float) -> bytes | None:
        return self.cache.find(self.name, now)

    def store(self, body: bytes, now: float) -> None:
        self.cache.store(self.name, body, now + self.ttl_s)


def choose_slot(cache: AnswerCache, guard: Guard, key: Key, route: Route, path: str, body: CallBody) -> Slot | None:
    """Where the answer to a request is kept; None when it is not to be.

    `body` is what goes to the engine, after screening: what the policy masked is no personal data any more.
    """
    policy = guard.document.cache
    if policy.ttl_s <= 0 or body.stream:
        return None
    if not policy.personal_data and holds_personal_data(body.fields):
        return None
    scope = (key.project_id, route.endpoint_id, route.model_version_id or "", path)
    ignored = frozenset(("model",)) if path == _ECHOES else _NOT_COMPARED
    compared = {name: value for name, value in body.fields.items() if name not in ignored}
    name = hashlib.blake2b("\0".join(scope).encode() + b"\0" + _encode(compared), digest_size=32).digest()
    return Slot(cache, name, policy.ttl_s, route.endpoint_id)


def holds_personal_data(fields: Mapping[str, Any]) -> bool:
    """Whether a rule for personal data matches in any text of a request."""
    return bool(_personal().find("\n".join(texts_of(msgspec.json.decode(_encode(fields))))))


def is_word(value: object) -> bool:
    """Whether this is short and plain enough to be a name; whatever is more could be a text in a name's place."""
    return isinstance(value, str) and len(value) <= _WORD_CHARS and value.isascii() and value.isidentifier()


@cache
def _personal() -> Scanner:
    return Scanner(rule for rule in RULES.values() if rule.group is Group.PERSONAL)


def texts_of(value: object) -> Iterator[str]:
    """Every text that a JSON value says: its strings, but for plain words that name fields or tell kinds and roles."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if not is_word(name):
                yield name
            if not (name in _KINDS and is_word(inner)):
                yield from texts_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_of(inner)
