"""A model that judges requests before another answers them: an endpoint of the platform, asked first. By policy only.

The judge gets every text of the request, after masking, and answers with a label; some labels refuse the request. It is
called as any model is, so its use is counted, bounded and retried in the same way. Fails closed: no verdict, no answer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from finmaas_core.errors import BlockedByPolicy, Unavailable
from finmaas_serving.gateway.cache import texts_of
from finmaas_serving.gateway.call import Call, Client
from finmaas_serving.gateway.errors import Problem, problem_of
from finmaas_serving.gateway.shapes import SHAPES
from finmaas_serving.guard.scores_request import TEXTS

if TYPE_CHECKING:
    from finmaas_serving.gateway.body import CallBody
    from finmaas_serving.gateway.context import Gateway
    from finmaas_serving.gateway.snapshot import Key, Snapshot
    from finmaas_serving.guard.policy import Moderation

_CHAT = SHAPES["/v1/chat/completions"]
_JUDGED = (
    "system", "messages", "prompt", "suffix", "input", "instructions", "instruction", "tools", "chat_template_kwargs",
    *TEXTS,
)  # fmt: skip
_RETRY_S = 5


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Verdict(msgspec.Struct):
    choices: list[_Choice]


_decode = msgspec.json.Decoder(_Verdict).decode


class ModeratedCall:
    """A call that starts once the judge has let it through; to its connection it is like any other."""

    def __init__(
        self,
        gateway: Gateway,
        snapshot: Snapshot,
        policy: Moderation,
        key: Key,
        body: CallBody,
        request_id: str,
        call: Call,
        client: Client,
    ) -> None:
        """Unavailable when the judge is not there for this project."""
        route = snapshot.visible.get(key.project_id, {}).get(policy.model)
        if route is None:
            raise _unjudged(f"its policy names the judge `{policy.model}`, which it may not call")
        self._call = call
        self._client = client
        self._refused = frozenset(label.strip().casefold() for label in policy.block)
        asked = _CHAT.read(_ask(policy, body))
        self._judging: Call | None = Call(gateway, self, f"{request_id}-judge", _CHAT, key, route, asked)
        self._paused = False

    @property
    def runs(self) -> bool:
        return self._call.runs

    def start(self) -> None:
        if self._judging is not None:
            self._judging.start()

    def client_gone(self) -> None:
        (self._judging or self._call).client_gone()
        self._judging = None

    def pause(self) -> None:
        """The client reads too slowly; the judge's answer is not for it."""
        self._paused = True
        if self._judging is None:
            self._call.pause()

    def resume(self) -> None:
        self._paused = False
        if self._judging is None:
            self._call.resume()

    def overdue(self, now: float) -> bool:
        return (self._judging or self._call).overdue(now)

    # What the judge's call asks (call.Client).

    def respond(self, status: int, content_type: bytes, body: bytes, extra: bytes = b"") -> None:
        if self._judging is None:
            return
        self._judging = None
        try:
            choice = _decode(body).choices[0]
        except (msgspec.DecodeError, IndexError, RecursionError):
            self._client.refuse(problem_of(_unjudged("its judge gave an answer that is no label")))
            return
        if choice.finish_reason == "length":  # it thinks or explains: what it would have said is not known
            self._client.refuse(problem_of(_unjudged("its judge says more than a label")))
            return
        label = (choice.message.content or "").strip()
        if not label or not self._refused.isdisjoint(read_labels(label)):
            reason = f"the judge of this project calls it `{label[:60]}`" if label else "the judge gave no label"
            self._client.refuse(problem_of(BlockedByPolicy(f"the request is refused: {reason}", rule="moderation")))
            return
        if self._paused:
            self._call.pause()
        self._call.start()

    def refuse(self, problem: Problem) -> None:
        if self._judging is None:
            return
        self._judging = None
        if problem.status == 429:  # an allowance: the client can act on it
            self._client.refuse(problem)
        else:
            self._client.refuse(problem_of(_unjudged(f"its judge does not answer ({problem.message})")))

    def start_stream(self, content_type: bytes, extra: bytes = b"") -> None:
        """The judge is not asked for a stream."""

    def send(self, data: bytes) -> None:
        """As above."""

    def end_stream(self) -> None:
        """As above."""

    def break_off(self, data: bytes) -> None:
        if self._judging is not None:
            self._judging = None
            self._client.refuse(problem_of(_unjudged("its judge broke off")))


def read_labels(verdict: str) -> set[str]:
    """The labels that a verdict may mean, in lower case: all of it, each of its lines, and what commas part.

    Quotes, stops and the like around a label do not count: a judge that says `unsafe\\nS1` or `Unsafe.` says `unsafe`.
    """
    parts = (verdict, *re.split(r"[\n,;，；、]", verdict))
    return {re.sub(r"^\W+|\W+$", "", part).casefold() for part in parts} | {verdict.casefold()}


def _ask(policy: Moderation, body: CallBody) -> bytes:
    """The judge's own request: the texts of the client's, one under the other."""
    fields = {name: msgspec.json.decode(body.fields[name]) for name in _JUDGED if name in body.fields}
    messages = [{"role": "user", "content": "\n".join(texts_of(fields))}]
    if policy.instruction:
        messages.insert(0, {"role": "system", "content": policy.instruction})
    return msgspec.json.encode({"model": policy.model, "messages": messages, "max_tokens": 16, "temperature": 0})


def _unjudged(why: str) -> Unavailable:
    return Unavailable(
        f"this project's requests are judged before they are answered, and {why}; nothing is let through until then",
        retry_after_s=_RETRY_S,
    )
