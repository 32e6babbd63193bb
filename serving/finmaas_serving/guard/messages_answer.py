"""Screens answers of `/v1/messages`: whole ones, and streams of named events, each block by itself.

The input of a tool is held until it is complete. The end of a text block is held until it is known whether another
block follows, because the visible mark stands at the end of the last text only.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from finmaas_core.errors import Corrupt
from finmaas_serving.guard.answer import Seal, TextScreen, Withheld
from finmaas_serving.guard.policy import Guard
from finmaas_serving.guard.window import TextWindow

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_ANSWER = frozenset(("id", "type", "role", "content", "model", "stop_reason", "stop_sequence", "usage"))
_PIECE = {"text_delta": "text", "thinking_delta": "thinking"}
_CANNOT = (msgspec.DecodeError, RecursionError, KeyError, TypeError, AttributeError, ValueError)

Event = dict[str, Any]


class MessagesScreen(TextScreen):
    """What one message goes through."""

    def __init__(self, guard: Guard, names: dict[str, str], *, is_text: bool, seal: Seal | None) -> None:
        super().__init__(guard, names, is_text=is_text, seal=seal)
        self._blocks: dict[int, _Block] = {}
        self._held: Event | None = None  # the end of a text block
        self._has_calls = False

    # Whole answers.

    def answer(self, body: bytes) -> bytes:
        """The body as the client may have it. Corrupt when it cannot be read, which means that it is not sent."""
        try:
            return _encode(self._message(_decode(body)))
        except _CANNOT as error:
            raise Corrupt(f"its answer cannot be screened: {error!r}") from None

    def _message(self, message: Event) -> Event:
        if message.keys() == {"input_tokens"} or "content" not in message:  # a count
            return {"input_tokens": message["input_tokens"]}
        if message["type"] != "message":
            raise ValueError("an answer of another kind")
        kept = {name: value for name, value in message.items() if name in _ANSWER}
        try:
            blocks = [self._block(block) for block in message["content"] if block["type"] in _KNOWN]
        except Withheld as refusal:
            self.withheld = refusal.rule
            notice = {"type": "text", "text": self.guard.notice(refusal.rule)}
            return kept | {"content": [notice], "stop_reason": "refusal", "stop_sequence": None}
        has_calls = any(block["type"] == "tool_use" for block in blocks)
        if blocks and blocks[-1].get("text") and not has_calls:
            blocks[-1]["text"] += self.ending(blocks[-1]["text"])
        kept["content"] = blocks
        texts = {place: block["text"] for place, block in enumerate(blocks) if block["type"] == "text"}
        if (claim := self.provenance({place: _hash(text) for place, text in texts.items()})) is not None:
            kept["provenance"] = claim
        return kept

    def _block(self, block: Event) -> Event:
        kept = {name: value for name, value in block.items() if name in _KNOWN[block["type"]]}
        for name in ("text", "thinking"):
            if name in kept:
                kept[name] = self.whole(kept[name])
        if "input" in kept:
            kept["input"] = self.walk(kept["input"])
        return kept

    # Streams.

    def events(self, event: Event) -> list[Event]:
        """What the client may have now that the engine sent this event. Corrupt when it cannot be screened.

        Once `withheld` is set, what is returned is the end of the stream.
        """
        try:
            return self._screened(event)
        except Withheld as refusal:
            self.withheld = refusal.rule
            return self._refused(refusal.rule)
        except _CANNOT as error:
            raise Corrupt(f"an event of the stream cannot be screened: {error!r}") from None

    def _screened(self, event: Event) -> list[Event]:
        match event["type"]:
            case "content_block_start":
                return [*self._release(ended=False), *self._start(event)]
            case "content_block_delta":
                return self._piece(event)
            case "content_block_stop":
                return self._stop(event)
            case "message_start":
                message = {name: value for name, value in event["message"].items() if name in _ANSWER}
                fixed = {"type": "message", "role": "assistant", "content": []}
                return [{"type": "message_start", "message": {**message, **fixed}}]
            case "message_delta":
                return [*self._release(ended=True), self._end(event)]
            case "message_stop":
                return [*self._release(ended=True), {"type": "message_stop"}]
            case "ping":
                return [{"type": "ping"}]
            case _:
                return []  # what is not known cannot be checked

    def _start(self, event: Event) -> list[Event]:
        block = event["content_block"]
        if block["type"] not in _KNOWN:
            return []
        if block.get("text") or block.get("thinking") or block.get("input"):
            raise ValueError("a block begins with text")
        self._has_calls |= block["type"] == "tool_use"
        self._blocks[event["index"]] = _Block(block["type"], self.window())
        return [{"type": "content_block_start", "index": event["index"], "content_block": self._block(block)}]

    def _piece(self, event: Event) -> list[Event]:
        block = self._blocks.get(event["index"])
        delta = event["delta"]
        if block is None:
            return []
        if delta["type"] == "input_json_delta":
            block.json += delta["partial_json"]
            return []
        if delta["type"] == "signature_delta":  # of thinking that ends here: first what is still held of it
            return [*self._rest(event["index"], block), _delta(event["index"], "signature", delta["signature"])]
        field = _PIECE[delta["type"]]
        return self._say(event["index"], block, field, block.window.feed(delta[field]))

    def _say(self, index: int, block: _Block, field: str, text: str) -> list[Event]:
        block.said += text if field == "text" else ""
        return [_delta(index, field, text)] if text else []

    def _rest(self, index: int, block: _Block) -> list[Event]:
        field = "thinking" if block.kind == "thinking" else "text"
        return self._say(index, block, field, block.window.flush())

    def _stop(self, event: Event) -> list[Event]:
        index = event["index"]
        block = self._blocks.get(index)
        if block is None:
            return []
        stop = {"type": "content_block_stop", "index": index}
        if block.kind == "tool_use":
            said = self.arguments(block.json) if block.json else ""
            return [_delta(index, "partial_json", said), stop] if said else [stop]
        out = self._rest(index, block)
        if block.kind == "text":
            self._held = stop
            return out
        return [*out, stop]

    def _release(self, *, ended: bool) -> list[Event]:
        """The held end of a text block; `ended`: nothing follows, so the text gets what policy appends."""
        stop, self._held = self._held, None
        if stop is None:
            return []
        block = self._blocks[stop["index"]]
        ending = self.ending(block.said) if ended and block.said and not self._has_calls else ""
        return [*self._say(stop["index"], block, "text", ending), stop]

    def _end(self, event: Event) -> Event:
        delta = {name: event["delta"].get(name) for name in ("stop_reason", "stop_sequence")}
        end: Event = {"type": "message_delta", "delta": delta, "usage": event.get("usage")}
        hashes = {index: _hash(block.said) for index, block in self._blocks.items() if block.kind == "text"}
        if (claim := self.provenance(hashes)) is not None:
            end["provenance"] = claim
        return end

    def _refused(self, rule: str) -> list[Event]:
        """The end of a stream whose text a rule refuses: the open block closed, a notice in one of its own."""
        stop, self._held = self._held, None
        index = max(self._blocks, default=-1)
        out: list[Event] = [stop or {"type": "content_block_stop", "index": index}] if index >= 0 else []
        index += 1
        return [
            *out,
            {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}},
            _delta(index, "text", self.guard.notice(rule)),
            {"type": "content_block_stop", "index": index},
            {"type": "message_delta", "delta": {"stop_reason": "refusal", "stop_sequence": None}, "usage": _NO_USAGE},
            {"type": "message_stop"},
        ]


_KNOWN = {
    "text": frozenset(("type", "text")),
    "thinking": frozenset(("type", "thinking", "signature")),
    "tool_use": frozenset(("type", "id", "name", "input")),
}
_NO_USAGE = {"output_tokens": 0}
_DELTA_TYPES = {
    "text": "text_delta",
    "thinking": "thinking_delta",
    "partial_json": "input_json_delta",
    "signature": "signature_delta",
}


class _Block:
    """One block of a stream."""

    __slots__ = ("json", "kind", "said", "window")

    def __init__(self, kind: str, window: TextWindow) -> None:
        self.kind = kind
        self.window = window
        self.json = ""
        self.said = ""


def _delta(index: int, field: str, text: str) -> Event:
    return {"type": "content_block_delta", "index": index, "delta": {"type": _DELTA_TYPES[field], field: text}}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
