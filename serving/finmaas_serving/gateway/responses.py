"""OpenAI's Responses: what of a request is refused because nothing is stored here, and where its usage stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import msgspec

from finmaas_core.errors import Corrupt, InvalidInput
from finmaas_serving.gateway.answer import rename_model
from finmaas_serving.gateway.body import CallBody, read_fields, read_plain_call
from finmaas_serving.gateway.bounded import ResponseCut
from finmaas_serving.gateway.errors import Problem
from finmaas_serving.gateway.named_events import NamedEventRewriter
from finmaas_serving.gateway.remote import check_tools, refuse_remote
from finmaas_serving.gateway.schemas import (
    ResponseAnswer,
    ResponseUsage,
    TextSettings,
    Usage,
)

_NOTHING = (b"null", b"false")
_STORED = {
    "store": "answers are not stored here; leave it out or set it to false, and send the conversation as `input`",
    "previous_response_id": "answers are not stored here; send the conversation so far as `input`",
    "conversation": "conversations are not stored here; send them as `input`",
    "background": "answers are not stored here, so none can be fetched later; use a batch (`/v1/batches`)",
    "prompt": "prompt templates are not stored here; send `instructions` and `input`",
}


_decode_answer = msgspec.json.Decoder(ResponseAnswer).decode


def read_call(raw: bytes) -> CallBody:
    """Reads a request; InvalidInput names the field that cannot be used."""
    fields = read_fields(raw)
    for name, why in _STORED.items():
        if name in fields and bytes(fields[name]) not in _NOTHING:
            raise InvalidInput(f"`{name}` cannot be used: {why}", param=name)
    refuse_remote(raw, fields, ("input",))
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


class ResponsesRewriter(NamedEventRewriter):
    """A response as a stream: the model's name stands in its first and last events, the usage in the last."""

    _cutter = ResponseCut

    @property
    def estimate(self) -> Usage:
        """One token for each piece of the answer; of one that was cut short, the prompt as it was reserved."""
        return Usage(self._reserved if self._was_cut else 0, self._pieces)

    def _begin(self, event: dict[str, Any]) -> None:
        response = event["response"]
        if response["model"] == self._engine_model:
            response["model"] = self._public_model

    def _end(self, event: dict[str, Any]) -> None:
        self._begin(event)
        usage = event["response"].get("usage")
        if usage is not None:
            self._usage = msgspec.convert(usage, ResponseUsage).as_usage()
        self.done = True
        self.failed = event["type"] == "response.failed"

    def _error(self, _: dict[str, Any]) -> None:
        self.done = self.failed = True

    _special: ClassVar[Mapping[bytes, Callable[[Any, dict[str, Any]], None]]] = {
        b"response.created": _begin,
        b"response.in_progress": _begin,
        b"response.queued": _begin,
        b"response.completed": _end,
        b"response.incomplete": _end,
        b"response.failed": _end,
        b"error": _error,
    }


def problem_event(problem: Problem) -> bytes:
    """What ends a stream that cannot be completed."""
    fields = {"type": "error", "code": problem.code, "message": problem.message, "param": problem.param}
    return b"event: error\ndata: %b\n\n" % msgspec.json.encode({**fields, "sequence_number": 0})


def is_for_readers(fields: Mapping[str, Any]) -> bool:
    """Whether people read the answer as it is: not when it is bound to JSON or a grammar."""
    if "structured_outputs" in fields:
        return False
    text = fields.get("text")
    try:
        wanted = None if text is None else msgspec.json.decode(text, type=TextSettings | None)
    except (msgspec.DecodeError, RecursionError):
        return False
    return wanted is None or wanted.format is None or wanted.format.type == "text"
