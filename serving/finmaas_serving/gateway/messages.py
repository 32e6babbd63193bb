"""Anthropic's Messages: where usage stands, and errors in the shape that its clients read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import msgspec

from finmaas_core.errors import Corrupt
from finmaas_serving.gateway.answer import rename_model
from finmaas_serving.gateway.body import CallBody, read_fields, read_plain_call
from finmaas_serving.gateway.bounded import MessageCut
from finmaas_serving.gateway.errors import Problem
from finmaas_serving.gateway.named_events import NamedEventRewriter
from finmaas_serving.gateway.remote import check_tools, refuse_remote
from finmaas_serving.gateway.schemas import MessageAnswer, MessageUsage, TokenCount, Usage

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


_decode_answer = msgspec.json.Decoder(MessageAnswer).decode
_decode_count = msgspec.json.Decoder(TokenCount).decode


def read_call(raw: bytes) -> CallBody:
    """Reads a request; InvalidInput names the field that cannot be used."""
    fields = read_fields(raw)
    refuse_remote(raw, fields, ("messages", "system"))
    check_tools(fields)
    return read_plain_call(raw, fields)


def read_answer(body: bytes, engine_model: str, public_model: str) -> tuple[bytes, Usage | None]:
    """The body for the client and the engine's count; Corrupt when the body is not an answer."""
    try:
        answer = _decode_answer(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Corrupt(f"its answer is not JSON as expected: {error}") from None
    usage = answer.usage.as_usage() if answer.usage is not None else None
    return rename_model(body, answer.model, engine_model, public_model), usage


def read_count(body: bytes, _: str, __: str) -> tuple[bytes, Usage | None]:
    """A count of tokens: nothing was used. Corrupt when the body is no count."""
    try:
        _decode_count(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Corrupt(f"its answer is not JSON as expected: {error}") from None
    return body, Usage()


class MessagesRewriter(NamedEventRewriter):
    """A message as a stream: the prompt is counted in the first event, the answer in the last but one."""

    _cutter = MessageCut
    _prompt = Usage()

    @property
    def estimate(self) -> Usage:
        """The prompt as the engine counted it, and one token for each piece of the answer."""
        prompt = self._prompt
        return Usage(prompt.prompt_tokens, self._pieces, prompt.prompt_tokens_details)

    def _start(self, event: dict[str, Any]) -> None:
        message = event["message"]
        if message["model"] == self._engine_model:
            message["model"] = self._public_model
        self._prompt = msgspec.convert(message.get("usage") or {}, MessageUsage).as_usage()

    def _count(self, event: dict[str, Any]) -> None:
        if event.get("usage") is not None:
            self._usage = msgspec.convert(event["usage"], MessageUsage).as_usage()

    def _stop(self, _: dict[str, Any]) -> None:
        self.done = True

    def _error(self, _: dict[str, Any]) -> None:
        self.done = self.failed = True

    _special: ClassVar[Mapping[bytes, Callable[[Any, dict[str, Any]], None]]] = {
        b"message_start": _start,
        b"message_delta": _count,
        b"message_stop": _stop,
        b"error": _error,
    }


def problem_body(problem: Problem) -> bytes:
    """`{"type": "error", "error": {"type", "message"}}`, as Anthropic's clients read it."""
    kind = _TYPES.get(problem.status) or ("api_error" if problem.status >= 500 else "invalid_request_error")
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": problem.message}})


def problem_event(problem: Problem) -> bytes:
    """The same as an event of a stream."""
    return b"event: error\ndata: %b\n\n" % problem_body(problem)


def is_for_readers(fields: Mapping[str, Any]) -> bool:
    """Whether people read the answer as it is: not when it is bound to JSON."""
    wanted = fields.get("output_config")
    return wanted is None or b'"format"' not in bytes(wanted)
