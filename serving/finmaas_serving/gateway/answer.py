"""An answer that comes as one body: its usage, the client's name of the model, and what an engine's error means."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec

from finmaas_core.errors import Corrupt
from finmaas_serving.gateway.errors import INVALID, SERVER, Problem, upstream_failed
from finmaas_serving.gateway.schemas import EngineAnswer, EngineError, EngineErrorBody, Usage

RETRY_AFTER_S: Final = 5


_decode_answer: Final = msgspec.json.Decoder(EngineAnswer).decode
_decode_error: Final = msgspec.json.Decoder(EngineErrorBody).decode
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_answer(body: bytes, engine_model: str, public_model: str) -> tuple[bytes, Usage | None]:
    """The body for the client and the engine's count; Corrupt when the body is not an answer."""
    try:
        answer = _decode_answer(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Corrupt(f"its answer is not JSON as expected: {error}") from None
    return rename_model(body, answer.model, engine_model, public_model), answer.usage


def rename_model(body: bytes, written: str | None, engine_model: str, public_model: str) -> bytes:
    """The client's name in place of the engine's, which an answer has `written`."""
    if written != engine_model or engine_model == public_model:
        return body
    old, new = _model_fields(engine_model, public_model)
    if len(old) != len(new):
        renamed = body.replace(old, new)
        if len(renamed) - len(body) == len(new) - len(old):  # it stood there once
            return renamed
    elif body.count(old) == 1:
        return body.replace(old, new)
    fields = _FIELDS.decode(body)
    fields["model"] = msgspec.Raw(new[8:])
    return msgspec.json.encode(fields)


@lru_cache(maxsize=4096)
def _model_fields(engine_model: str, public_model: str) -> tuple[bytes, bytes]:
    return b'"model":"%b"' % engine_model.encode(), b'"model":"%b"' % public_model.encode()


def engine_problem(status: int, body: bytes, unserved: str | None = None) -> Problem:
    """What the client is told when the engine refuses: OpenAI's types and codes instead of the engine's.

    `unserved` names a path that models need not serve: then a path that the engine does not know says so.
    """
    message, param = _engine_message(body)
    if unserved is not None and (status == 501 or (status == 404 and message == "Not Found")):
        return Problem(400, INVALID, "unsupported_path", f"this model does not serve {unserved}", "model")
    if status in (404, 405, 401, 403):  # the replica does not know the model: it is being replaced
        return Problem(503, SERVER, "endpoint_not_ready", "the replica does not serve the model", None, RETRY_AFTER_S)
    if status in (429, 503):
        return Problem(503, SERVER, "engine_overloaded", message or "the model is busy", None, RETRY_AFTER_S)
    if 400 <= status < 500:
        code = "context_length_exceeded" if "maximum context length" in message else "invalid_request"
        return Problem(status, INVALID, code, message or f"the engine refused the request ({status})", param)
    return upstream_failed(f"it answered {status}")


def _engine_message(body: bytes) -> tuple[str, str | None]:
    try:
        read = _decode_error(body)
    except (msgspec.DecodeError, RecursionError):
        return body[:500].decode(errors="replace"), None
    error = read.error or EngineError(read.message, read.param)
    return error.message, error.param
