"""Answers that a model judges before their client gets them. By policy only.

An answer in one piece is held until the judge has let it through. A stream is held window by window: the judge gets the
window's text and the end of the one before, while the engine writes on. Fails closed: no verdict, nothing of it passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from finmaas_serving.gateway.cache import is_word
from finmaas_serving.gateway.errors import Problem, problem_of
from finmaas_serving.gateway.moderation import ModeratedCall, Question, Waiting, find_judge, unjudged
from finmaas_serving.guard.policy import Guard

if TYPE_CHECKING:
    from finmaas_serving.gateway.body import CallBody
    from finmaas_serving.gateway.call import Call, Client
    from finmaas_serving.gateway.context import Gateway
    from finmaas_serving.gateway.screen import BrokenGuard
    from finmaas_serving.gateway.shapes import Shape
    from finmaas_serving.gateway.snapshot import Key, Route
    from finmaas_serving.guard.policy import Moderation

OVERLAP_CHARS = 200
"""Of what was let through, how much the judge is told again: what it judges may begin before its window."""
_NOT_SAID = frozenset(
    (
        "usage", "provenance", "logprobs", "model", "object", "system_fingerprint", "instructions", "tools",
        "tool_choice", "truncation", "metadata", "service_tier",
    )
)  # fmt: skip
_NAMES = frozenset(("id", "item_id", "call_id", "tool_call_id", "signature"))
_KINDS = frozenset(("type", "role", "status", "finish_reason", "stop_reason", "phase"))
_decode = msgspec.json.Decoder(dict[str, Any]).decode
Path = tuple[str | int, ...]


class Said:
    """The texts of one answer by their places, and how far the judge has let them through."""

    def __init__(self) -> None:
        self._texts: dict[Path, str] = {}
        self._judged: dict[Path, int] = {}
        self.fresh = 0  # characters that no judge has seen

    def note(self, event: dict[str, Any]) -> None:
        """An event of the stream. One that is no piece tells again what pieces have told, as a whole."""
        kind = event.get("type")
        is_piece = not isinstance(kind, str) or kind.endswith("delta")
        for path, text in _texts_of(event, ()):
            if not text or (not is_piece and any(text in known for known in self._texts.values())):
                continue
            self._texts[path] = self._texts.get(path, "") + text
            self.fresh += len(text)

    def take(self) -> str:
        """What the judge is to see now; it counts as seen from here on."""
        parts = []
        for path, text in self._texts.items():
            seen = self._judged.get(path, 0)
            if len(text) > seen:
                parts.append(text[max(0, seen - OVERLAP_CHARS) :])
                self._judged[path] = len(text)
        self.fresh = 0
        return "\n".join(parts)


class JudgedAnswer:
    """Stands between a call and its client (`call.Client`), and between its connection and the call."""

    def __init__(
        self,
        gateway: Gateway,
        route: Route,
        policy: Moderation,
        key: Key,
        shape: Shape,
        request_id: str,
        client: Client,
        call: Call,
    ) -> None:
        """`route` is the judge's."""
        self.call = call
        self._gateway = gateway
        self._route = route
        self._policy = policy
        self._key = key
        self._shape = shape
        self._request_id = request_id
        self._client = client
        self._said = Said()
        self._question: Question | None = None
        self._asked = 0
        self._whole: tuple[int, bytes, bytes, bytes] | None = None  # an answer in one piece
        self._head: tuple[bytes, bytes] | None = None  # of a stream that the client has nothing of
        self._held: list[bytes] = []
        self._mark = 0  # how many of those the judge is asked about
        self._ended = False
        self._over = False  # the client has its answer or its error

    # What the connection asks.

    @property
    def runs(self) -> bool:
        return self.call.runs

    def start(self) -> None:
        self.call.start()

    def client_gone(self) -> None:
        self._finish()
        self.call.client_gone()

    def pause(self) -> None:
        self.call.pause()

    def resume(self) -> None:
        self.call.resume()

    def overdue(self, now: float) -> bool:
        if self._question is not None:
            self._question.overdue(now)
        return self.call.overdue(now)

    # What the call asks (call.Client).

    def respond(self, status: int, content_type: bytes, body: bytes, extra: bytes = b"") -> None:
        self._whole = (status, content_type, body, extra)
        self._note(body)
        self._go_on(ended=True)

    def refuse(self, problem: Problem) -> None:
        if not self._over:
            self._finish()
            self._client.refuse(problem)

    def start_stream(self, content_type: bytes, extra: bytes = b"") -> None:
        self._head = (content_type, extra)

    def send(self, data: bytes) -> None:
        if self._over:
            return
        self._held.append(data)
        for event in data.split(b"\n\n"):
            _, mark, value = event.rpartition(b"data: ")
            if mark and value.startswith(b"{"):
                self._note(value)
        self._go_on(ended=False)

    def end_stream(self) -> None:
        self._go_on(ended=True)

    def break_off(self, data: bytes) -> None:
        """The stream cannot be completed: what no judge has let through goes, the error comes."""
        if self._over:
            return
        self._finish()
        self._begin()
        self._client.break_off(data)

    # The judge.

    def _note(self, body: bytes) -> None:
        if self._over:
            return
        try:
            self._said.note(_decode(body))
        except (msgspec.DecodeError, RecursionError):
            self._withhold(problem_of(unjudged("answer", "this one cannot be read")))

    def _go_on(self, *, ended: bool) -> None:
        """Asks when there is enough to ask about; lets the rest go when there is nothing."""
        self._ended |= ended
        if self._over or self._question is not None:
            return
        fresh = self._said.fresh
        if fresh and (self._ended or fresh >= self._policy.window_chars):
            self._ask()
        elif self._ended and self.call.conclude():
            self._let_go(len(self._held))
            self._end()

    def _ask(self) -> None:
        self._mark = len(self._held)
        self._asked += 1
        name = f"{self._request_id}-judge-{self._asked}"
        self._question = Question(
            self._gateway, self._policy, self._key, self._route, name, self._said.take(), "answer", self._judged
        )
        self._question.start()

    def _judged(self, problem: Problem | None) -> None:
        self._question = None
        if problem is not None:
            self._withhold(problem)
            return
        if not self._ended or self._said.fresh:  # the last of it waits for the record
            self._let_go(self._mark)
        self._go_on(ended=False)

    def _withhold(self, problem: Problem) -> None:
        self._finish()
        self.call.withhold()
        if self._head is None and self._whole is None:  # the client has the beginning
            self._client.break_off(self._shape.problem_event(problem))
        else:
            self._client.refuse(problem)

    # The client.

    def _begin(self) -> None:
        head, self._head = self._head, None
        if head is not None:
            self._client.start_stream(*head)

    def _let_go(self, count: int) -> None:
        if not count:
            return
        self._begin()
        for data in self._held[:count]:
            self._client.send(data)
        del self._held[:count]

    def _end(self) -> None:
        self._finish()
        if self._whole is not None:
            self._client.respond(*self._whole)
        else:
            self._client.end_stream()

    def _finish(self) -> None:
        self._over = True
        question, self._question = self._question, None
        if question is not None:
            question.drop()


def moderate(
    gateway: Gateway,
    guard: Guard | BrokenGuard,
    key: Key,
    shape: Shape,
    body: CallBody,
    request_id: str,
    call: Call,
    client: Client,
) -> Waiting:
    """A call with the judge before it, behind it, or both, as the policy says. Unavailable without the judge."""
    if not isinstance(guard, Guard) or not (policy := guard.document.moderation).model:
        return call
    judge = find_judge(gateway.snapshots.current, policy, key)
    judged: Waiting = call
    if policy.answers and shape.screen is not None:
        judged = JudgedAnswer(gateway, judge, policy, key, shape, request_id, client, call)
        call.answer_to(judged)
    if not policy.requests:
        return judged
    return ModeratedCall(gateway, judge, policy, key, body, request_id, judged, client)


def _texts_of(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """What an answer or an event says, with the place of each text; names, kinds and counts say nothing."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        numbers = tuple(value[name] for name in ("output_index", "content_index", "index") if name in value)
        for name, inner in value.items():
            if name in _NOT_SAID or (not path and name == "type"):
                continue
            if (name in _KINDS and is_word(inner)) or (name in _NAMES and isinstance(inner, str) and " " not in inner):
                continue
            yield from _texts_of(inner, (*path, *numbers, name))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            has_index = isinstance(inner, dict) and "index" in inner
            yield from _texts_of(inner, path if has_index else (*path, place))
