"""The gateway's answers to what went wrong, in the shape OpenAI clients read. Decides nothing, only maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from finmaas_core.errors import FinmaasError

INVALID = "invalid_request_error"
SERVER = "server_error"

# FinmaasError.code -> (HTTP status, OpenAI type, OpenAI code).
OPENAI_ERRORS: dict[str, tuple[int, str, str]] = {
    "internal": (500, SERVER, "internal_error"),
    "bad_input": (400, INVALID, "invalid_request"),
    "bad_row": (400, INVALID, "invalid_request"),
    "invalid_spec": (400, INVALID, "invalid_request"),
    "prompt_too_long": (400, INVALID, "context_length_exceeded"),
    "blocked_by_policy": (400, INVALID, "content_policy_violation"),
    "not_authenticated": (401, INVALID, "invalid_api_key"),
    "not_allowed": (403, "permission_error", "permission_denied"),
    "not_found": (404, INVALID, "model_not_found"),
    "conflict": (409, INVALID, "conflict"),
    "already_exists": (409, INVALID, "conflict"),
    "version_mismatch": (409, INVALID, "conflict"),
    "stale_attempt": (409, INVALID, "conflict"),
    "limit_reached": (429, "insufficient_quota", "insufficient_quota"),
    "corrupt": (502, SERVER, "upstream_failed"),
    "bad_signature": (502, SERVER, "upstream_failed"),
    "unavailable": (503, SERVER, "endpoint_not_ready"),
    "store_full": (503, SERVER, "gateway_full"),
    "wrong_schema": (503, SERVER, "unavailable"),
    "environment": (503, SERVER, "unavailable"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One refusal or failure: what the client is told, and the status it travels with."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    retry_after_s: int | None = None
    allow: str | None = None  # the methods of a 405
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def body(self) -> bytes:
        """`{"error": {"message", "type", "param", "code"}}`, as OpenAI clients read it."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def event(self) -> bytes:
        """The same as an event of a stream."""
        return b"data: " + self.body() + b"\n\n"

    def header_lines(self) -> list[tuple[bytes, bytes]]:
        """The headers that it travels with."""
        headers = list(self.headers)
        if self.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % self.retry_after_s))
        if self.allow is not None:
            headers.append((b"allow", self.allow.encode()))
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        return headers


def problem_of(error: FinmaasError) -> Problem:
    """The problem that tells a client of an error; its details may name `param`, `openai_code`, `retry_after_s`."""
    status, kind, code = OPENAI_ERRORS.get(error.code, OPENAI_ERRORS["internal"])
    details: dict[str, Any] = error.details
    return Problem(
        status=status,
        type=details.get("openai_type") or kind,
        code=details.get("openai_code", code),
        message=error.message,
        param=details.get("param"),
        retry_after_s=details.get("retry_after_s"),
        headers=details.get("headers", ()),
    )


def bad_http(message: str, status: int = 400, code: str = "bad_http") -> Problem:
    """A request that is not HTTP/1.1 as the standard wants it."""
    return Problem(status, INVALID, code, message)


def body_too_large(limit: int) -> Problem:
    return Problem(
        413, INVALID, "request_too_large", f"the body is larger than {limit} bytes, the most this gateway takes"
    )


def unknown_path(path: str) -> Problem:
    return Problem(404, INVALID, "unknown_url", f"there is no {path[:200]} here; see /v1/models for what can be called")


def busy_uploads(limit: int) -> Problem:
    message = f"{limit} uploads are on their way through this gateway, the most it takes at once; try again shortly"
    return Problem(503, SERVER, "busy_uploads", message, retry_after_s=5)


def not_stored(path: str) -> Problem:
    return Problem(404, INVALID, "not_stored", f"there is no {path[:200]}: answers are not stored here")


def wrong_method(method: str, path: str, allow: str) -> Problem:
    return Problem(405, INVALID, "method_not_allowed", f"{path} takes {allow}, not {method[:20]}", allow=allow)


def upstream_failed(what: str) -> Problem:
    return Problem(502, SERVER, "upstream_failed", f"the model's replica failed: {what}; try again")


def upstream_timeout(what: str) -> Problem:
    return Problem(504, SERVER, "upstream_timeout", f"the model's replica did not answer: {what}; try again")


def deadline_exceeded(doing: str) -> Problem:
    return Problem(504, SERVER, "deadline_exceeded", f"the deadline of `x-request-timeout` came while {doing}")
