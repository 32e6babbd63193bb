"""Streams whose events have names (`event: …`, `data: {…}`): those of `/v1/responses` and `/v1/messages`.

Events that tell neither usage nor the model's name pass as they came; a guardrail sees every one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar

import msgspec

from finmaas_core.errors import Corrupt
from finmaas_serving.gateway.bounded import Bounded, tokens_of
from finmaas_serving.gateway.schemas import Usage
from finmaas_serving.gateway.sse import MAX_EVENT_BYTES

T = TypeVar("T")
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


class EventScreen(Protocol):
    """What a guardrail does with one event: the events that the client may have now."""

    withheld: str | None

    def events(self, event: dict[str, Any]) -> list[dict[str, Any]]: ...


class Cut(Protocol):
    """Knows where a stream stands, and the events that end it there."""

    def note(self, event: dict[str, Any]) -> None: ...

    def end(self, pieces: int) -> list[dict[str, Any]]: ...


class NamedEventRewriter(Bounded):
    """Takes the engine's stream in pieces of any size and gives the client's. Raises Corrupt for what is no event.

    `_special` names the events that are looked into, and by which method.
    """

    _special: ClassVar[Mapping[bytes, Callable[[Any, dict[str, Any]], None]]] = {}
    _cutter: ClassVar[type[Cut]]

    def __init__(self, engine_model: str, public_model: str, screen: EventScreen | None = None) -> None:
        self._engine_model = engine_model
        self._public_model = public_model
        self._screen = screen
        self._tail = b""
        self._pieces = 0  # events that carried a piece of the answer; each is at least one token
        self._usage: Usage | None = None
        self.done = False
        self.failed = False
        self.limit: int | None = None
        self.output = 0
        self.over = False
        self._most = 0
        self._reserved = 0  # for the prompt
        self._was_cut = False
        self._kept: list[bytes] = []
        self._cut: Cut | None = None  # made with the first event that passes under a limit

    @property
    def usage(self) -> Usage | None:
        """What the engine has counted for the whole answer; None before it said so. Never more than is reserved."""
        usage, limit = self._usage, self.limit
        if usage is not None and limit is not None and (usage.completion_tokens or 0) > limit:
            usage = msgspec.structs.replace(usage, completion_tokens=limit)
        return usage

    def bound(self, prompt: int, whole: int) -> None:
        self._reserved, self._most = prompt, whole

    @property
    def estimate(self) -> Usage:
        """What an answer used whose end did not come: one token for each piece of it."""
        return Usage(completion_tokens=self._pieces)

    def feed(self, data: bytes) -> bytes:
        """The bytes for the client that are complete now; part of an event is kept back."""
        if self.limit is not None:
            return self._feed_limited(data)
        if self._tail:
            data = self._tail + data
        end = data.rfind(b"\n\n")
        if end < 0:
            if len(data) > MAX_EVENT_BYTES:
                raise Corrupt("an event of the stream has no end")
            self._tail = data
            return b""
        self._tail = data[end + 2 :]
        return b"".join([self._event(event) for event in data[:end].split(b"\n\n")])

    def cut(self) -> bytes:
        """Ends the answer where its limit is, as the engine does for its own bound."""
        self._kept, self.over, self._was_cut = [], False, True
        ends = [] if self._cut is None else self._cut.end(self._pieces)
        out = b"".join([self._event(_write(event)[:-2]) for event in ends])
        self.done = True
        return out

    def _feed_limited(self, data: bytes) -> bytes:
        """The same, event by event: none passes that could make the answer longer than its limit."""
        data = self._tail + data
        end = data.rfind(b"\n\n")
        if end < 0 and len(data) > MAX_EVENT_BYTES:
            raise Corrupt("an event of the stream has no end")
        self._tail = data[end + 2 :] if end >= 0 else data
        events = self._kept + (data[:end].split(b"\n\n") if end >= 0 else [])
        self._kept, self.over = [], False
        if self._cut is None:
            self._cut = self._cutter()
        out: list[bytes] = []
        for place, event in enumerate(events):
            name, _, raw = event.partition(b"\ndata: ")
            value = _read(raw, name[7:]) if name.startswith(b"event: ") and not self.done else None
            length = self.output + (0 if value is None else _ask(tokens_of, value))
            if self.limit is not None and self.limit < min(length, self._most):
                self._kept, self.over = events[place:], True
                break
            self.output = length
            if value is not None:
                _ask(self._cut.note, value)
            out.append(self._event(event))
        return b"".join(out)

    def _event(self, event: bytes) -> bytes:
        if self.done or not event:
            return b""
        if event.startswith(b":"):
            return event + b"\n\n"
        name, separator, data = event.partition(b"\ndata: ")
        if not separator or not name.startswith(b"event: ") or b"\n" in data:
            raise Corrupt("the stream holds something that is not an event with a name")
        name = name[7:]
        self._pieces += name.endswith(b"delta")
        look = self._special.get(name)
        if look is None and self._screen is None:
            return event + b"\n\n"
        value = _read(data, name)
        if look is not None:
            _look(look, self, value)
        return self._screened(value)

    def _screened(self, value: dict[str, Any]) -> bytes:
        screen = self._screen
        if screen is None or value["type"] == "error":
            return _write(value)
        out = b"".join(map(_write, screen.events(value)))
        self.done |= screen.withheld is not None
        return out


def _read(data: bytes, name: bytes) -> dict[str, Any]:
    try:
        value = _decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Corrupt(f"an event of the stream is not JSON as expected: {error}") from None
    if value.get("type") != name.decode(errors="replace"):
        raise Corrupt("an event of the stream bears another name than its data")
    return value


def _look(look: Callable[[Any, dict[str, Any]], None], rewriter: NamedEventRewriter, value: dict[str, Any]) -> None:
    _ask(lambda event: look(rewriter, event), value)


def _ask(question: Callable[[dict[str, Any]], T], value: dict[str, Any]) -> T:
    try:
        return question(value)
    except (KeyError, TypeError, AttributeError, msgspec.ValidationError) as error:
        raise Corrupt(f"an event of the stream is not as expected: {error!r}") from None


def _write(value: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (str(value["type"]).encode(), _encode(value))
