"""An answer as a stream of server-sent events: finds their bounds, reads the usage, puts the client's words back.

Events are changed by bytes, not by decoding. That is exact, because in JSON a quote inside a string is always written
`\\"`: the bytes `,"usage":` and `"model":"` can be nothing but keys, whatever the model wrote. What does not look as
vLLM writes it takes the slow way and is decoded.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from finmaas_core.errors import Corrupt
from finmaas_serving.gateway.bounded import Bounded
from finmaas_serving.gateway.schemas import Event, Usage
from finmaas_serving.guard.answer import AnswerScreen

DONE: Final = b"data: [DONE]"
MAX_EVENT_BYTES: Final = 8 * 1024 * 1024

_NUMBER: Final = rb'"[a-z_]+":(?:\d+|null)'
_FLAT: Final = rb"\{(?:%b(?:,%b)*)?\}" % (_NUMBER, _NUMBER)
_FIELD: Final = rb'"[a-z_]+":(?:\d+|null|%b)' % _FLAT
_USAGE: Final = re.compile(rb',"usage":(\{%b(?:,%b)*\}|null)(?=[,}])' % (_FIELD, _FIELD))
_DIGITS: Final = re.compile(rb"\s*(\d+)")
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


_decode_usage: Final = msgspec.json.Decoder(Usage | None).decode
_decode_event: Final = msgspec.json.Decoder(Event).decode


class StreamRewriter(Bounded):
    """Takes the engine's stream in pieces of any size and gives the client's.

    `engine_model` and `public_model` are the name the engine writes and the one the client asked for; both are made
    of characters that JSON does not escape. Raises Corrupt for bytes that are not events.
    """

    __slots__ = (
        "_by_choice",
        "_choices",
        "_ended",
        "_from",
        "_kept",
        "_last",
        "_samples",
        "_screen",
        "_show_continuous",
        "_show_usage",
        "_tail",
        "_to",
        "_total",
        "done",
        "failed",
        "limit",
        "output",
        "over",
    )

    def __init__(
        self,
        engine_model: str,
        public_model: str,
        *,
        show_usage: bool = False,
        show_continuous: bool = False,
        samples: int = 1,
        choices: int = 1,
        screen: AnswerScreen | None = None,
    ) -> None:
        self._screen = screen
        self._from = b'"model":"%b"' % engine_model.encode()
        self._to = b'"model":"%b"' % public_model.encode()
        self._show_usage = show_usage
        self._show_continuous = show_continuous
        self._samples = samples
        self._choices = choices
        self._tail = b""
        self._last: bytes | None = None
        self._total: bytes | None = None
        self._by_choice: dict[int, Usage] = {}
        self.done = False  # the engine said [DONE]
        self.failed = False  # the engine reported an error inside the stream
        self.limit: int | None = None  # tokens of the answer that may pass
        self.output = 0  # tokens that have passed, while there is a limit
        self.over = False  # the next event would pass the limit; it and what follows is kept back
        self._kept: list[bytes] = []
        self._ended: set[int] = set()  # choices that have their finish_reason

    def bound(self, prompt: int, whole: int) -> None:
        """The engine counts as it goes, and keeps to its own bound."""

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
        if data.find(b"\n\n", 0, end) < 0:
            return self._event(data[:end])
        return b"".join([self._event(event) for event in data[:end].split(b"\n\n")])

    def cut(self) -> bytes:
        """Ends the answer where its limit is, as the engine does for `max_tokens`: with `finish_reason: length`."""
        event = self._kept[0] if self._kept else b""
        self._kept, self.over, self.limit = [], False, None
        fields = _FIELDS.decode(event[6:])
        fields.pop("usage", None)
        body = b'"text":""' if b"text_completion" in bytes(fields.get("object", b"")) else b'"delta":{}'
        choices = [
            b'{"index":%d,%b,"logprobs":null,"finish_reason":"length"}' % (index, body)
            for index in range(self._choices)
            if index not in self._ended
        ]
        fields["choices"] = msgspec.Raw(b"[" + b",".join(choices) + b"]")
        out = [self._data(b"data: " + msgspec.json.encode(fields))]
        usage = self.usage
        if usage is not None and self._show_usage and not self.done:
            fields["choices"] = msgspec.Raw(b"[]")
            total = usage.prompt_tokens + (usage.completion_tokens or 0)
            fields["usage"] = msgspec.Raw(msgspec.json.encode({**msgspec.to_builtins(usage), "total_tokens": total}))
            out.append(self._data(b"data: " + msgspec.json.encode(fields)))
        out.append(self._event(DONE))
        return b"".join(out)

    def _feed_limited(self, data: bytes) -> bytes:
        """The same, event by event: none passes that would make the answer longer than its limit."""
        data = self._tail + data
        end = data.rfind(b"\n\n")
        if end < 0 and len(data) > MAX_EVENT_BYTES:
            raise Corrupt("an event of the stream has no end")
        self._tail = data[end + 2 :] if end >= 0 else data
        events = self._kept + (data[:end].split(b"\n\n") if end >= 0 else [])
        self._kept, self.over = [], False
        out: list[bytes] = []
        for place, event in enumerate(events):
            length = self._length_after(event)
            if self.limit is not None and length > self.limit:
                self._kept, self.over = events[place:], True
                break
            self.output = max(self.output, length)
            out.append(self._event(event))
        return b"".join(out)

    def _length_after(self, event: bytes) -> int:
        """Tokens of the answer once this event has passed; 0 when it tells none."""
        at = event.rfind(b'"completion_tokens":')
        if at < 0 or b'"choices":[]' in event:
            return 0
        count = _DIGITS.match(event, at + 20)
        length = int(count[1]) if count is not None else 0
        if self._choices <= 1:
            return length
        choices = _decode(event).choices
        if b'"finish_reason":"' in event:
            self._ended.update(choice.index for choice in choices)
        seen = {choice.index for choice in choices}
        others = (usage.completion_tokens or 0 for index, usage in self._by_choice.items() if index not in seen)
        return length + sum(others)

    @property
    def usage(self) -> Usage | None:
        """What the engine has counted so far; None while it has counted nothing."""
        if self._total is not None:
            total: Usage | None = _decode_usage(self._total)
            return total
        if self._by_choice:
            return _sum_choices(self._by_choice, self._samples)
        return self._latest()

    @property
    def estimate(self) -> Usage:
        """What an answer used that the engine has counted nothing of."""
        return Usage()

    def _latest(self) -> Usage | None:
        if self._last is None:
            return None
        usage: Usage | None = _decode_usage(self._last)
        return usage

    def _event(self, event: bytes) -> bytes:
        if self.done or not event:
            return b""
        if event.startswith(b"data: {"):
            return self._data(event)
        if event == DONE:
            self.done = True
            if self._screen is not None and (left := self._screen.end()):
                return left + b"\n\n" + DONE + b"\n\n"
        elif not event.startswith((b":", b"event:", b"id:", b"retry:")):
            raise Corrupt("the stream holds a line that is not an event")
        return event + b"\n\n"

    def _data(self, event: bytes) -> bytes:
        # An event that begins with an error and says something all the same is screened like any other.
        if event.startswith(b'data: {"error"') and (self._screen is None or not _decode(event).choices):
            self.failed = True
            return event + b"\n\n"
        at = event.rfind(b',"usage":')
        if at > 0:
            found = _USAGE.match(event, at)
            if found is None:
                return self._slow(event)
            if b'"choices":[]' in event:
                self._total = found[1]
                if not self._show_usage:
                    return b""
            else:
                self._note(found[1], event)
                if not self._show_continuous:
                    event = event[:at] + event[found.end() :]
        elif b'"usage"' in event:
            return self._slow(event)
        return self._out(event.replace(self._from, self._to, 1))

    def _note(self, usage: bytes, event: bytes) -> None:
        """Keeps the latest count. With several choices vLLM counts each by itself, so they are kept apart."""
        if usage == b"null":
            return
        if self._choices <= 1:
            self._last = usage
            return
        read = _decode(event)
        if read.usage is not None:
            for choice in read.choices:
                self._by_choice[choice.index] = read.usage

    def _slow(self, event: bytes) -> bytes:
        """The same by decoding, for an event that is not written as vLLM writes them."""
        read = _decode(event)
        fields = _FIELDS.decode(event[6:])
        usage = fields.get("usage")
        if read.usage is not None and usage is not None:
            if read.choices:
                self._note(bytes(usage), event)
            else:
                self._total = bytes(usage)
        if "choices" in fields and not read.choices and read.usage is not None and not self._show_usage:
            return b""
        if read.choices and not self._show_continuous:
            fields.pop("usage", None)
        model = fields.get("model")
        if model is not None and b'"model":' + bytes(model) == self._from:
            fields["model"] = msgspec.Raw(self._to[8:])
        return self._out(b"data: " + msgspec.json.encode(fields))

    def _out(self, event: bytes) -> bytes:
        """An event as it leaves; once a guardrail refuses the text, the stream ends with the event that says so."""
        screen = self._screen
        if screen is None:
            return event + b"\n\n"
        event = screen.event(event)
        if screen.withheld is not None:
            self.done = True
            return event + b"\n\n" + DONE + b"\n\n"
        return event + b"\n\n" if event else b""


def _decode(event: bytes) -> Event:
    try:
        return _decode_event(event[6:])
    except (msgspec.DecodeError, RecursionError) as error:
        raise Corrupt(f"an event of the stream is not JSON as expected: {error}") from None


def _sum_choices(by_choice: dict[int, Usage], samples: int) -> Usage:
    """Adds up choices; those of one prompt (`samples` neighbours) share its prompt tokens."""
    prompts = {index // samples: usage.prompt_tokens for index, usage in by_choice.items()}
    answers = sum(usage.completion_tokens or 0 for usage in by_choice.values())
    return Usage(prompt_tokens=sum(prompts.values()), completion_tokens=answers)
