"""The shapes of the API: for each path how a request is read, what the engine gets, and how its answer is read.

Looked up once a request; what follows goes through the functions found here, so no shape pays for another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from finmaas_serving.gateway import messages, responses, scores
from finmaas_serving.gateway.answer import read_answer
from finmaas_serving.gateway.body import CallBody, engine_body, is_for_readers, plain_engine_body, read_body
from finmaas_serving.gateway.errors import Problem
from finmaas_serving.gateway.schemas import Usage
from finmaas_serving.gateway.sse import StreamRewriter
from finmaas_serving.guard.answer import AnswerScreen
from finmaas_serving.guard.messages_answer import MessagesScreen
from finmaas_serving.guard.responses_answer import ResponsesScreen


class Rewriter(Protocol):
    """An answer on its way as a stream."""

    done: bool
    failed: bool

    @property
    def usage(self) -> Usage | None: ...

    @property
    def estimate(self) -> Usage: ...

    def feed(self, data: bytes) -> bytes: ...


class Screen(Protocol):
    """What a guardrail does with an answer in one piece."""

    withheld: str | None
    claims: list[str]  # digests of the claims of provenance it sealed

    def answer(self, body: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Shape:
    """One path. `screen` is None where an answer holds no text.

    `salted`: the engine takes a `cache_salt` here. `optional`: a model may not serve this path at all.
    """

    path: str
    read: Callable[[bytes], CallBody]
    engine_body: Callable[[CallBody, str, str | None], bytes]
    rewriter: Callable[[str, CallBody, Any], Rewriter]
    read_answer: Callable[[bytes, str, str], tuple[bytes, Usage | None]]
    screen: Callable[..., Screen] | None
    is_for_readers: Callable[[Mapping[str, Any]], bool]
    problem_body: Callable[[Problem], bytes] = Problem.body
    problem_event: Callable[[Problem], bytes] = Problem.event
    salted: bool = True
    optional: bool = False


def _chunks(engine_model: str, body: CallBody, screen: Any) -> Rewriter:
    return StreamRewriter(
        engine_model,
        body.model,
        show_usage=body.show_usage,
        show_continuous=body.show_continuous,
        samples=body.samples,
        choices=body.choices,
        screen=screen,
    )


def _response(engine_model: str, body: CallBody, screen: Any) -> Rewriter:
    return responses.ResponsesRewriter(engine_model, body.model, screen)


def _message(engine_model: str, body: CallBody, screen: Any) -> Rewriter:
    return messages.MessagesRewriter(engine_model, body.model, screen)


def _chat(path: str) -> Shape:
    return Shape(path, read_body, engine_body, _chunks, read_answer, AnswerScreen, is_for_readers)


def _numbers(path: str, read: Callable[[bytes], CallBody], *, salted: bool) -> Shape:
    make = plain_engine_body if salted else engine_body
    return Shape(path, read, make, _chunks, read_answer, None, is_for_readers, salted=salted, optional=True)


def _messages(path: str, read: Callable[[bytes, str, str], tuple[bytes, Usage | None]], *, salted: bool) -> Shape:
    return Shape(
        path,
        messages.read_call,
        plain_engine_body,
        _message,
        read,
        MessagesScreen,
        messages.is_for_readers,
        messages.problem_body,
        messages.problem_event,
        salted=salted,
    )


_RESPONSES = Shape(
    "/v1/responses",
    responses.read_call,
    plain_engine_body,
    _response,
    responses.read_answer,
    ResponsesScreen,
    responses.is_for_readers,
    problem_event=responses.problem_event,
)
SHAPES: Mapping[str, Shape] = {
    shape.path: shape
    for shape in (
        _chat("/v1/chat/completions"),
        _chat("/v1/completions"),
        _numbers("/v1/embeddings", read_body, salted=False),
        _RESPONSES,
        _messages("/v1/messages", messages.read_answer, salted=True),
        _messages("/v1/messages/count_tokens", messages.read_count, salted=False),
        _numbers("/v1/rerank", scores.read_call, salted=True),
        _numbers("/v1/score", scores.read_call, salted=True),
    )
}
