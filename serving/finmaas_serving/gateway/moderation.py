"""A model that judges requests before another answers them: an endpoint of the platform, asked first. By policy only.
Answers are judged by `judged_answer`, with the same question.

The judge gets every text of the request, after masking, and answers with a label; some labels refuse the request. It is
called as any model is, so its use is counted, bounded and retried in the same way. Fails closed: no verdict, no answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec

from finmaas_core.errors import BlockedByPolicy, Unavailable
from finmaas_core.telemetry import get_logger
from finmaas_serving.gateway.cache import texts_of
from finmaas_serving.gateway.call import Call, Client
from finmaas_serving.gateway.errors import Problem, problem_of
from finmaas_serving.gateway.shapes import SHAPES
from finmaas_serving.guard.scores_request import TEXTS

if TYPE_CHECKING:
    from finmaas_serving.gateway.body import CallBody
    from finmaas_serving.gateway.context import Gateway
    from finmaas_serving.gateway.snapshot import Key, Route, Snapshot
    from finmaas_serving.guard.policy import Moderation

_CHAT = SHAPES["/v1/chat/completions"]
_JUDGED = (
    "system", "messages", "prompt", "suffix", "input", "instructions", "instruction", "tools", "chat_template_kwargs",
    *TEXTS,
)  # fmt: skip
_RETRY_S = 5
log = get_logger()


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Verdict(msgspec.Struct):
    choices: list[_Choice]


_decode = msgspec.json.Decoder(_Verdict).decode


class Waiting(Protocol):
    """A call as its connection sees it."""

    @property
    def runs(self) -> bool: ...

    def start(self) -> None: ...

    def client_gone(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def overdue(self, now: float) -> bool: ...


class Question:
    """One text given to the judge; `done` hears once: None when it is let through, or why it is not."""

    def __init__(
        self,
        gateway: Gateway,
        policy: Moderation,
        key: Key,
        route: Route,
        name: str,
        text: str,
        what: str,
        done: Callable[[Problem | None], None],
    ) -> None:
        """`name` is the request id that the judge's call gets, `what` is judged: the request or the answer."""
        self._policy = policy
        self._what = what
        self._done: Callable[[Problem | None], None] | None = done
        self._call = Call(gateway, self, name, _CHAT, key, route, _CHAT.read(_ask(policy, text)))

    def start(self) -> None:
        self._call.start()

    def drop(self) -> None:
        """Nobody waits for the verdict any more."""
        self._done = None
        self._call.client_gone()

    def overdue(self, now: float) -> bool:
        return self._call.overdue(now)

    def _tell(self, problem: Problem | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(problem)

    def _unjudged(self, why: str) -> None:
        self._tell(problem_of(unjudged(self._what, why)))

    # What the judge's call asks (call.Client).

    def respond(self, status: int, content_type: bytes, body: bytes, extra: bytes = b"") -> None:
        try:
            choice = _decode(body).choices[0]
        except (msgspec.DecodeError, IndexError, RecursionError):
            self._unjudged("its judge gave an answer that is no label")
            return
        if choice.finish_reason == "length":  # it thinks or explains: what it would have said is not known
            self._unjudged("its judge says more than a label")
            return
        label = (choice.message.content or "").strip()
        labels = read_labels(label)
        refused = [one for one in self._policy.block if one.strip().casefold() in labels]
        if label and not refused:
            self._tell(None)
            return
        # In the policy's words: a judge may repeat what it judges, and its client is not to have that.
        reason = f"the judge of this project calls it `{'`, `'.join(refused)}`" if label else "the judge gave no label"
        self._tell(problem_of(BlockedByPolicy(f"the {self._what} is refused: {reason}", rule="moderation")))

    def refuse(self, problem: Problem) -> None:
        if problem.status == 429:  # an allowance: the client can act on it
            self._tell(problem)
        else:
            log.warning("judge.away", endpoint=self._policy.model, status=problem.status, code=problem.code)
            self._unjudged(
                f"its judge does not answer (status {problem.status})"
            )  # its words may repeat what it judges

    def start_stream(self, content_type: bytes, extra: bytes = b"") -> None:
        """The judge is not asked for a stream."""

    def send(self, data: bytes) -> None:
        """As above."""

    def end_stream(self) -> None:
        """As above."""

    def break_off(self, data: bytes) -> None:
        self._unjudged("its judge broke off")


class ModeratedCall:
    """A call that starts once the judge has let it through; to its connection it is like any other."""

    def __init__(
        self,
        gateway: Gateway,
        route: Route,
        policy: Moderation,
        key: Key,
        body: CallBody,
        request_id: str,
        call: Waiting,
        client: Client,
    ) -> None:
        self._call = call
        self._client = client
        text = "\n".join(
            texts_of({name: msgspec.json.decode(body.fields[name]) for name in _JUDGED if name in body.fields})
        )
        self._question: Question | None = Question(
            gateway, policy, key, route, f"{request_id}-judge", text, "request", self._judged
        )
        self._paused = False

    @property
    def runs(self) -> bool:
        return self._call.runs

    def start(self) -> None:
        if self._question is not None:
            self._question.start()

    def client_gone(self) -> None:
        question, self._question = self._question, None
        if question is not None:
            question.drop()
        else:
            self._call.client_gone()

    def pause(self) -> None:
        """The client reads too slowly; the judge's answer is not for it."""
        self._paused = True
        if self._question is None:
            self._call.pause()

    def resume(self) -> None:
        self._paused = False
        if self._question is None:
            self._call.resume()

    def overdue(self, now: float) -> bool:
        return (self._question or self._call).overdue(now)

    def _judged(self, problem: Problem | None) -> None:
        self._question = None
        if problem is not None:
            self._client.refuse(problem)
            return
        if self._paused:
            self._call.pause()
        self._call.start()


def find_judge(snapshot: Snapshot, policy: Moderation, key: Key) -> Route:
    """Who judges for a project; Unavailable when the judge is not there for it."""
    route = snapshot.visible.get(key.project_id, {}).get(policy.model)
    if route is None:
        raise unjudged("request", f"its policy names the judge `{policy.model}`, which it may not call")
    return route


def read_labels(verdict: str) -> set[str]:
    """The labels that a verdict may mean, in lower case: all of it, each of its lines, and what commas and colons part.

    Quotes, stops and the like around a label do not count: a judge that says `unsafe\\nS1` or `Unsafe.` says `unsafe`.
    """
    parts = (verdict, *re.split(r"[\n,;:，；：、]", verdict))
    return {re.sub(r"^\W+|\W+$", "", part).casefold() for part in parts} | {verdict.casefold()}


def _ask(policy: Moderation, text: str) -> bytes:
    """The judge's own request: the texts, one under the other."""
    messages = [{"role": "user", "content": text}]
    if policy.instruction:
        messages.insert(0, {"role": "system", "content": policy.instruction})
    return msgspec.json.encode({"model": policy.model, "messages": messages, "max_tokens": 16, "temperature": 0})


def unjudged(what: str, why: str) -> Unavailable:
    """What is not judged is not let through."""
    return Unavailable(
        f"this project's {what}s are judged by a model, and {why}; nothing is let through until then",
        retry_after_s=_RETRY_S,
    )
