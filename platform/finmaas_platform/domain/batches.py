"""Batches of requests: their states, what a line of the input may hold, and what happens next. Pure.

validating ─► in_progress ─► finalizing ─► completed
    │             ├─► cancelling ─► cancelled
    └─► failed    └─► expired          (what was answered before stays, in the output file)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec

from finmaas_core.errors import InvalidInput

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
WINDOW = "24h"
WINDOW_LENGTH = timedelta(hours=24)
MAX_LINES = 50_000
MAX_FAULTS = 50
"""Lines that are named at most when an input is refused."""
MAX_CUSTOM_ID = 512
MAX_METADATA = 16
ATTEMPTS = 3
LONGEST_WAIT_S = 60.0
FIRST_WAIT_S = 1.0
REPEATED = "repeated"
"""How the usage record of a line ends that was answered before: it is kept, and counts nothing."""
_LINE = frozenset(("custom_id", "method", "url", "body"))


class BatchState(StrEnum):
    """Where a batch stands; the words are OpenAI's."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


SETTLED = frozenset((BatchState.COMPLETED, BatchState.FAILED, BatchState.CANCELLED, BatchState.EXPIRED))
CANCELLABLE = frozenset((BatchState.VALIDATING, BatchState.IN_PROGRESS))


class LineState(StrEnum):
    """Where one line stands; nothing changes once it is not pending."""

    PENDING = "pending"
    DONE = "done"  # answered with 200
    FAILED = "failed"


@dataclass(frozen=True)
class Fault:
    """Why a line of the input cannot be used; `line` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True)
class Line:
    """One request of the input, and where its bytes lie in the file."""

    number: int
    custom_id: str
    offset: int
    size: int


class _Raw(msgspec.Struct):
    custom_id: str
    method: str
    url: str
    body: dict[str, msgspec.Raw]


_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def split_lines(chunks: Iterator[bytes], max_bytes: int) -> Iterator[tuple[int, int, bytes]]:
    """Number, offset and bytes of each line that holds something.

    InvalidInput when one is longer than a request may be.
    """
    held, offset, number = b"", 0, 0
    for chunk in chunks:
        *lines, held = (held + chunk).split(b"\n")
        for line in lines:
            number += 1
            if line.strip():
                yield number, offset, line
            offset += len(line) + 1
        if len(held) > max_bytes:
            raise InvalidInput(
                f"line {number + 1} is longer than {max_bytes:,} bytes, the most that a request may have"
            )
    if held.strip():
        yield number + 1, offset, held


def check_line(number: int, offset: int, raw: bytes, endpoint: str) -> Line | Fault:
    """One line of the input read, or the fault that names the line and the field."""
    try:
        raw.decode()
        fields = _FIELDS.decode(raw)
    except UnicodeDecodeError as error:
        return Fault("invalid_utf8", f"line {number} is not UTF-8: byte {error.start} cannot be read", number)
    except (msgspec.DecodeError, RecursionError) as error:
        return Fault("invalid_json_line", f"line {number} is not a JSON object: {error}", number)
    unknown = fields.keys() - _LINE
    if unknown:
        name = min(unknown)
        return Fault("unknown_field", f"line {number}: `{name}` is no field of a request in a batch", number, name)
    try:
        read = msgspec.json.decode(raw, type=_Raw)
    except (msgspec.DecodeError, RecursionError) as error:
        return Fault("invalid_request", f"line {number}: {error}", number, _named(str(error)))
    return _check_read(number, offset, raw, read, endpoint)


def _check_read(number: int, offset: int, raw: bytes, read: _Raw, endpoint: str) -> Line | Fault:
    def fault(code: str, param: str, why: str) -> Fault:
        return Fault(code, f"line {number}: `{param}` {why}", number, param)

    if not 1 <= len(read.custom_id) <= MAX_CUSTOM_ID or "\x00" in read.custom_id:
        return fault("invalid_custom_id", "custom_id", f"must be 1 to {MAX_CUSTOM_ID} characters long, without NUL")
    if read.method != "POST":
        return fault("invalid_method", "method", "must be POST")
    if read.url != endpoint:
        return fault("mismatched_endpoint", "url", f"must be {endpoint}, as the batch says")
    if bytes(read.body.get("model", b"")).strip()[:1] != b'"':
        return fault("missing_model", "body.model", "must name a model")
    if bytes(read.body.get("stream", b"false")) not in (b"false", b"null"):
        return fault("stream", "body.stream", "cannot be used: a batch writes whole answers")
    return Line(number, read.custom_id, offset, len(raw))


def _named(error: str) -> str | None:
    """The field that msgspec complains of: `$.body` or a missing `body`."""
    _, _, path = error.partition("`$.")
    if path:
        return path.partition("`")[0]
    _, _, missing = error.partition("missing required field `")
    return missing.partition("`")[0] or None


def check_metadata(value: object) -> dict[str, Any]:
    """Up to 16 texts of the client's own. InvalidInput else."""
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_METADATA:
        raise InvalidInput(f"`metadata` must be an object of at most {MAX_METADATA} texts", param="metadata")
    for name, text in value.items():
        if not isinstance(text, str) or len(text) > 512 or len(name) > 64 or "\x00" in name + text:
            raise InvalidInput(
                f"`metadata.{name[:64]}` must be a text of at most 512 characters", param=f"metadata.{name[:64]}"
            )
    return value


@dataclass(frozen=True)
class Outcome:
    """What becomes of a line after an attempt: settled with this state, or to be tried again after `wait_s`."""

    state: LineState
    wait_s: float = 0.0
    counts: bool = True  # whether it was an attempt that may fail at last


def decide_outcome(status: int | None, retry_after_s: float | None, attempts: int) -> Outcome:
    """After `attempts` attempts, the last answered with `status` (None: no answer at all).

    No room, no allowance left, no replica ready: the line waits, for as long as the batch lives. A fault of the model's
    is tried three times. What the request itself is refused for is not tried again.
    """
    if status == 200:
        return Outcome(LineState.DONE)
    if status is None or status in (429, 503):
        wait = min(LONGEST_WAIT_S, retry_after_s or FIRST_WAIT_S)
        return Outcome(LineState.PENDING, wait, counts=False)
    if status >= 500 and attempts < ATTEMPTS:
        return Outcome(LineState.PENDING, FIRST_WAIT_S * 2**attempts)
    return Outcome(LineState.FAILED)


class Step(StrEnum):
    """What a reconciler does next for a batch."""

    VALIDATE = "validate"
    RUN = "run"
    EXPIRE = "expire"
    FINISH = "finish"


def plan_batch(state: BatchState, pending: int, expires_at: datetime, now: datetime) -> Step:
    """The next step of a batch that is not settled; `pending` lines are neither done nor failed."""
    if state is BatchState.VALIDATING:
        return Step.VALIDATE
    if state in (BatchState.CANCELLING, BatchState.FINALIZING) or not pending:
        return Step.FINISH
    return Step.EXPIRE if now >= expires_at else Step.RUN


def error_body(code: str, message: str) -> Mapping[str, str]:
    """The `error` of a line that was never answered."""
    return {"code": code, "message": message}
