"""Streams that may be ended where their reservation ends: what they have in common, and how named events are ended.

An engine does not count tokens in the events of `/v1/responses` and `/v1/messages`. So what has passed is bounded by
its bytes (every tokenizer served here falls back to bytes) and what stands around each item; the engine's own count
settles it at the end.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Final

from mypy_extensions import mypyc_attr

ITEM_TOKENS: Final = 16
"""What an engine writes around an item, a block or a call of a tool and does not show: marks, names of roles."""
_PARTS: Final = {
    "output_text": ("response.output_text", "response.content_part"),
    "refusal": ("response.refusal", "response.content_part"),
    "reasoning_text": ("response.reasoning_text", "response.reasoning_part"),
    "summary_text": ("response.reasoning_summary_text", "response.reasoning_summary_part"),
}
Event = dict[str, Any]


@mypyc_attr(allow_interpreted_subclasses=True)
class Bounded:
    """A stream with a limit on the tokens that may pass."""

    __slots__ = ()

    limit: int | None  # tokens of the answer that may pass
    output: int  # tokens that have passed, while there is a limit
    over: bool  # the next event would pass the limit; it and what follows is kept back

    @abstractmethod
    def bound(self, prompt: int, whole: int) -> None:
        """What is reserved for the prompt, and the most that the answer may ever have."""

    @abstractmethod
    def cut(self) -> bytes:
        """Ends the answer where its limit is, as the engine does for its own bound."""


def tokens_of(event: Event) -> int:
    """The most tokens that an event can stand for."""
    kind = event["type"]
    if not kind.endswith("delta"):
        return ITEM_TOKENS if kind in ("response.output_item.added", "content_block_start") else 0
    delta = event["delta"]
    said = [delta] if isinstance(delta, str) else [delta.get(name, "") for name in ("text", "thinking", "partial_json")]
    return sum(len(text.encode(errors="surrogatepass")) for text in said)


class ResponseCut:
    """Where a response stands, and the events that end it there: `response.incomplete`, `max_output_tokens`."""

    def __init__(self) -> None:
        self._response: Event = {}
        self._items: list[Event] = []
        self._item: Event | None = None  # that is being written
        self._part: Event | None = None
        self._at: Event = {}  # the place of the part
        self._text = ""
        self._number = 0

    def note(self, event: Event) -> None:
        """An event that passes."""
        kind = event["type"]
        self._number = event.get("sequence_number", self._number) + 1
        if "response" in event:
            self._response = event["response"]
        elif kind == "response.output_item.added":
            self._item, self._part, self._text = {**event["item"]}, None, ""
            self._at = {name: event[name] for name in ("output_index",) if name in event}
        elif kind == "response.output_item.done":
            self._items.append(event["item"])
            self._item = None
        elif kind.endswith("part.added"):
            self._part, self._text = {**event["part"]}, ""
            self._at = {name: value for name, value in event.items() if name.endswith(("_index", "_id"))}
        elif kind.endswith("part.done") and self._item is not None:
            self._keep(event["part"])
        elif kind.endswith("delta"):
            self._text += event["delta"]

    def end(self, _: int) -> list[Event]:
        """What the engine would have written had it stopped here by itself."""
        out = [] if self._item is None else self._end_item(self._item)
        details = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        out.append({"type": "response.incomplete", "response": {**self._response, **details, "output": self._items}})
        return [{**event, "sequence_number": self._number + place} for place, event in enumerate(out)]

    def _end_item(self, item: Event) -> list[Event]:
        out: list[Event] = []
        if self._part is not None:
            kind = self._part["type"]
            text, part = _PARTS[kind]
            field = "refusal" if kind == "refusal" else "text"
            whole = {**self._part, field: self._text}
            out.append({"type": f"{text}.done", **self._at, field: self._text, "logprobs": []})
            out.append({"type": f"{part}.done", **self._at, "part": whole})
            self._keep(whole)
        elif item["type"] == "function_call":
            item["arguments"] = self._text
            called = {"item_id": item.get("id"), "name": item.get("name"), "arguments": self._text}
            out.append({"type": "response.function_call_arguments.done", **self._at, **called})
        item["status"] = "incomplete"
        self._items.append(item)
        at = {"output_index": self._at.get("output_index", len(self._items) - 1)}
        return [*out, {"type": "response.output_item.done", **at, "item": item}]

    def _keep(self, part: Event) -> None:
        assert self._item is not None
        name = "summary" if part["type"] == "summary_text" else "content"
        self._item[name] = [*(self._item.get(name) or []), part]
        self._part = None


class MessageCut:
    """Where a message stands, and the events that end it there: `stop_reason: max_tokens`."""

    def __init__(self) -> None:
        self._open: int | None = None
        self._usage: Event = {}

    def note(self, event: Event) -> None:
        """An event that passes."""
        kind = event["type"]
        if kind == "message_start":
            self._usage = event["message"].get("usage") or {}
        elif kind == "content_block_start":
            self._open = event["index"]
        elif kind == "content_block_stop":
            self._open = None

    def end(self, pieces: int) -> list[Event]:
        """What the engine would have written had it stopped here by itself, `pieces` tokens into its answer."""
        out: list[Event] = [] if self._open is None else [{"type": "content_block_stop", "index": self._open}]
        stop = {"stop_reason": "max_tokens", "stop_sequence": None}
        usage = {**self._usage, "output_tokens": pieces}
        return [*out, {"type": "message_delta", "delta": stop, "usage": usage}, {"type": "message_stop"}]
