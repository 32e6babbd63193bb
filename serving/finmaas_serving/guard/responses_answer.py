"""Screens answers of `/v1/responses`: whole ones, and streams of named events.

A stream tells each text several times: in pieces, as a whole, in its part, in its item, in the response. All of them
are screened, and alike. The events that end a message are held until it is known whether another item follows, because
the visible mark stands at the end of the last text only. Events are numbered anew: some wait, some are added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from finmaas_core.errors import Corrupt
from finmaas_serving.guard.answer import Seal, TextScreen, Withheld
from finmaas_serving.guard.policy import Guard
from finmaas_serving.guard.window import TextWindow

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_KEPT = """
    id object created_at completed_at status error incomplete_details instructions max_output_tokens max_tool_calls
    model output parallel_tool_calls previous_response_id reasoning store temperature text tool_choice tools top_p
    top_logprobs truncation usage user metadata background service_tier presence_penalty frequency_penalty
    safety_identifier prompt_cache_key conversation prompt
"""
_RESPONSE = frozenset(_KEPT.split())
_TEXT_OF = {"output_text": "text", "refusal": "refusal", "reasoning_text": "text", "summary_text": "text"}
_TERMINAL = frozenset(("response.completed", "response.incomplete", "response.failed"))
_INCOMPLETE = "response.incomplete"
_BEGIN = frozenset(("response.created", "response.in_progress", "response.queued"))
# Name of the event -> (the place of its text in the item, the field that holds the whole text).
_PIECES = {
    "response.output_text": ("content_index", "text"),
    "response.refusal": ("content_index", "refusal"),
    "response.reasoning_text": ("content_index", "text"),
    "response.reasoning_summary_text": ("summary_index", "text"),
}
_PART_ADDED = frozenset(
    ("response.content_part.added", "response.reasoning_part.added", "response.reasoning_summary_part.added")
)
_PART_DONE = frozenset(
    ("response.content_part.done", "response.reasoning_part.done", "response.reasoning_summary_part.done")
)
_ENDS = frozenset(("response.output_text.done", "response.content_part.done", "response.output_item.done"))
_CANNOT = (msgspec.DecodeError, RecursionError, KeyError, TypeError, AttributeError, ValueError, IndexError)

Event = dict[str, Any]


class ResponsesScreen(TextScreen):
    """What one response goes through."""

    def __init__(self, guard: Guard, names: dict[str, str], *, is_text: bool, seal: Seal | None) -> None:
        super().__init__(guard, names, is_text=is_text, seal=seal)
        self._windows: dict[tuple[str, int, int], TextWindow] = {}
        self._held: list[Event] = []
        self._last_text: Event | None = None
        self._latest: Event = {}
        self._has_calls = False
        self._number = 0

    # Whole answers.

    def answer(self, body: bytes) -> bytes:
        """The body as the client may have it. Corrupt when it cannot be read, which means that it is not sent."""
        try:
            return _encode(self._response(_decode(body), ended=True))
        except _CANNOT as error:
            raise Corrupt(f"its answer cannot be screened: {error!r}") from None

    def _response(self, response: Event, *, ended: bool) -> Event:
        kept = {name: value for name, value in response.items() if name in _RESPONSE}
        try:
            kept["output"], hashes = self._output(response.get("output") or [], ended=ended)
            if kept.get("error"):
                kept["error"] = self.walk(kept["error"])
        except Withheld as refusal:
            self.withheld = refusal.rule
            kept["output"], hashes = [_notice_item(self.guard.notice(refusal.rule))], {}
            kept |= {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}
        if (claim := self.provenance(hashes)) is not None:
            kept["provenance"] = claim
        return kept

    def _output(self, items: list[Event], *, ended: bool) -> tuple[list[Event], dict[int, str]]:
        """The items, and the hash of each message's text by the item's place."""
        known = [item for item in items if item["type"] in self._items]
        has_calls = any(item["type"] == "function_call" for item in items)
        out, hashes = [], {}
        for place, item in enumerate(known):
            is_last = ended and not has_calls and place == len(known) - 1
            out.append(self._item(item, is_last=is_last))
            if item["type"] == "message":
                text = "".join(part.get("text", "") for part in out[-1]["content"])
                hashes[place] = hashlib.sha256(text.encode()).hexdigest()
        return out, hashes if ended else {}

    def _item(self, item: Event, *, is_last: bool = False) -> Event:
        return self._items[item["type"]](self, item, is_last)

    def _message(self, item: Event, is_last: bool) -> Event:
        parts = [self._part(part) for part in item["content"]]
        if is_last and parts and parts[-1].get("text"):
            parts[-1]["text"] += self.ending(parts[-1]["text"])
        return {**_pick(item, "id", "type", "role", "status", "phase"), "content": parts}

    def _call(self, item: Event, _: bool) -> Event:
        picked = _pick(item, "id", "type", "call_id", "name", "status")
        return {**picked, "arguments": self.arguments(item.get("arguments") or "")}

    def _reasoning(self, item: Event, _: bool) -> Event:
        kept = _pick(item, "id", "type", "status")
        for name in ("summary", "content"):
            if item.get(name) is not None:
                kept[name] = [self._part(part) for part in item[name]]
        return kept

    _items: Mapping[str, Callable[[ResponsesScreen, Event, bool], Event]] = {
        "message": _message,
        "function_call": _call,
        "reasoning": _reasoning,
    }

    def _part(self, part: Event) -> Event:
        """A part of content: its text, and of an answer's text what clients expect beside it."""
        field = _TEXT_OF[part["type"]]
        kept = {"type": part["type"], field: self.whole(part[field])}
        return {**kept, "annotations": [], "logprobs": []} if part["type"] == "output_text" else kept

    # Streams.

    def events(self, event: Event) -> list[Event]:
        """What the client may have now that the engine sent this event. Corrupt when it cannot be screened.

        Once `withheld` is set, what is returned is the end of the stream.
        """
        try:
            out = self._screened(event)
        except Withheld as refusal:
            self.withheld = refusal.rule
            out = self._refused(event, refusal.rule)
        except _CANNOT as error:
            raise Corrupt(f"an event of the stream cannot be screened: {error!r}") from None
        for one in out:
            one["sequence_number"] = self._number
            self._number += 1
        return out

    def _screened(self, event: Event) -> list[Event]:
        name: str = event["type"]
        if name in _ENDS and not self._is_of_reasoning(event):
            self._held.append(event)
            return []
        if name in _TERMINAL:
            out, response = self._release(ended=True), self._response(event["response"], ended=True)
            return [*out, {"type": name if self.withheld is None else _INCOMPLETE, "response": response}]
        return [*self._release(ended=False), *self._one(name, event)]

    def _one(self, name: str, event: Event) -> list[Event]:
        base, _, kind = name.rpartition(".")
        if base in _PIECES:
            return self._piece(base, event) if kind == "delta" else self._done(base, event)
        if name in _BEGIN:
            self._latest = event["response"]
            return [{"type": name, "response": self._response(event["response"], ended=False)}]
        if name in ("response.output_item.added", "response.output_item.done"):
            self._has_calls |= event["item"]["type"] == "function_call"
            return [{**_frame(event), "item": self._item(event["item"])}]
        if name in _PART_ADDED and event["part"][_TEXT_OF[event["part"]["type"]]]:
            raise ValueError("a part begins with text")
        if name in _PART_ADDED or name in _PART_DONE:
            return [{**_frame(event), "part": self._part(event["part"])}]
        if name == "response.function_call_arguments.done":
            arguments = self.arguments(event["arguments"])
            piece = {**_frame(event), "type": f"{base}.delta", "delta": arguments}
            return [piece, {**_frame(event), **_pick(event, "name"), "arguments": arguments}]
        return []  # pieces of arguments wait for their end; what is not known cannot be checked

    def _piece(self, base: str, event: Event) -> list[Event]:
        out = self._window(base, event).feed(event["delta"])
        if base == "response.output_text":
            self._last_text = event
        return [self._delta(base, event, out)] if out else []

    def _done(self, base: str, event: Event, ending: bool = False) -> list[Event]:
        field = _PIECES[base][1]
        rest = self._window(base, event).flush()
        text = self.whole(event[field])
        if ending and text:
            rest, text = rest + self.ending(text), text + self.ending(text)
        done = {**_frame(event), field: text} | ({"logprobs": []} if "logprobs" in event else {})
        return [self._delta(base, event, rest), done] if rest else [done]

    def _delta(self, base: str, event: Event, text: str) -> Event:
        more: Event = {"logprobs": []} if base == "response.output_text" else {}
        return {**_frame(event), "type": f"{base}.delta", "delta": text, **more}

    def _window(self, base: str, event: Event) -> TextWindow:
        place = (base, event["output_index"], event[_PIECES[base][0]])
        window = self._windows.get(place)
        if window is None:
            window = self._windows[place] = self.window()
        return window

    def _is_of_reasoning(self, event: Event) -> bool:
        """Whether an event that may end a message ends something else."""
        if event["type"] == "response.output_item.done":
            return bool(event["item"]["type"] != "message")
        return bool(event["type"] == "response.content_part.done" and event["part"]["type"] != "output_text")

    def _release(self, *, ended: bool) -> list[Event]:
        """The held events, which end a message; `ended`: nothing follows, so its text gets what policy appends."""
        held, self._held = self._held, []
        if not held:
            return []
        final = ended and not self._has_calls
        return [one for event in held for one in self._end(event, final)]

    def _end(self, event: Event, final: bool) -> list[Event]:
        if event["type"] == "response.output_text.done":
            return self._done("response.output_text", event, final)
        if event["type"] == "response.content_part.done":
            part = self._part(event["part"])
            if final and part["text"]:
                part["text"] += self.ending(part["text"])
            return [{**_frame(event), "part": part}]
        return [{**_frame(event), "item": self._item(event["item"], is_last=final)}]

    def _refused(self, event: Event, rule: str) -> list[Event]:
        """The end of a stream whose text a rule refuses: a notice where text was on its way, then the response."""
        out = []
        if self._last_text is not None:
            out.append(self._delta("response.output_text", self._last_text, self.guard.notice(rule)))
        response = self._response({**self._latest, **event.get("response", {}), "output": []}, ended=False)
        response |= {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}
        response["output"] = [_notice_item(self.guard.notice(rule))]
        return [*out, {"type": _INCOMPLETE, "response": response}]


def _frame(event: Event) -> Event:
    """What an event says of its place, and nothing of what it carries."""
    return _pick(event, "type", "item_id", "output_index", "content_index", "summary_index")


def _pick(value: Event, *names: str) -> Event:
    return {name: value[name] for name in names if name in value}


def _notice_item(notice: str) -> Event:
    """A message that stands in place of what may not be sent."""
    text = {"type": "output_text", "text": notice, "annotations": [], "logprobs": []}
    return {"id": "msg_withheld", "type": "message", "role": "assistant", "status": "incomplete", "content": [text]}
