"""Files and batches: asked of the control plane on behalf of the key, which the gateway has checked. Not hot.
Files on their way there are `upload`'s.

Nothing of the client's head travels on but the type of its body. What comes back is passed on as it comes, with the
control plane's refusals put into OpenAI's words.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol

import httpx
import msgspec

from finmaas_core.telemetry import get_logger
from finmaas_serving.gateway.errors import INVALID, OPENAI_ERRORS, SERVER, Problem

if TYPE_CHECKING:
    from finmaas_serving.gateway.context import Gateway
    from finmaas_serving.gateway.snapshot import Key

FILES = "/v1/files"
_ID = r"[A-Za-z0-9_-]{1,100}"
_PATHS: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (re.compile(r"/v1/(files|batches)"), ("GET", "POST")),
    (re.compile(rf"/v1/files/{_ID}"), ("GET", "DELETE")),
    (re.compile(rf"/v1/files/{_ID}/content"), ("GET",)),
    (re.compile(rf"/v1/batches/{_ID}"), ("GET",)),
    (re.compile(rf"/v1/batches/{_ID}/cancel"), ("POST",)),
)
AWAY = Problem(
    503,
    SERVER,
    "control_plane_away",
    "files and batches are not at hand now; calls of models go on; try again",
    None,
    5,
)
log = get_logger()
TIMEOUT = httpx.Timeout(60.0, read=120.0)


class Client(Protocol):
    """The client's side, as a forwarded request sees it."""

    def respond(self, status: int, content_type: bytes, body: bytes) -> None: ...

    def refuse(self, problem: Problem) -> None: ...

    def start_stream(self, content_type: bytes) -> None: ...

    def send(self, data: bytes) -> None: ...

    def end_stream(self) -> None: ...

    def break_off(self, data: bytes) -> None: ...


def methods_of(path: str) -> tuple[str, ...] | None:
    """The methods of a path that is forwarded; None for any other path."""
    return next((methods for pattern, methods in _PATHS if pattern.fullmatch(path)), None)


def target_of(path: str, query: bytes | None) -> str:
    """Path and query as the client wrote them."""
    return f"{path}?{query.decode('latin-1')}" if query else path


def url_of(target: str) -> str:
    """Where the control plane has a target."""
    return "/api/v1/gateway/openai" + target.removeprefix("/v1")


def headers_of(key: Key, content_type: bytes) -> dict[bytes, bytes]:
    """All that is told of the client's request: whose key it is, and the type of its body."""
    headers = {b"x-finmaas-key": key.key_id.encode()}
    return headers | {b"content-type": content_type} if content_type else headers


class Forward:
    """One request to the control plane and its answer."""

    def __init__(
        self, gateway: Gateway, client: Client, key: Key, method: str, target: str, content_type: bytes, body: bytes
    ) -> None:
        """`target` is the path with its query, as the client wrote it."""
        self._gateway = gateway
        self._client = client
        self._headers = headers_of(key, content_type)
        self._method = method
        self._url = url_of(target)
        self._body = body
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._paused_at: float | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Sends it off."""
        if self._gateway.control_plane is None:
            self._client.refuse(AWAY)
            return
        self._task = self._gateway.loop.create_task(self._run(self._gateway.control_plane))

    def client_gone(self) -> None:
        """The client left."""
        if self._task is not None:
            self._task.cancel()

    def pause(self) -> None:
        """The client reads too slowly."""
        self._paused_at = self._gateway.loop.time()
        self._may_write.clear()

    def resume(self) -> None:
        self._paused_at = None
        self._may_write.set()

    def overdue(self, now: float) -> bool:
        """True when the client does not read; the control plane's own time is bounded by the request to it."""
        return self._paused_at is not None and now > self._paused_at + self._gateway.limits.stalled_s

    async def _run(self, api: httpx.AsyncClient) -> None:
        begun = False
        try:
            async with api.stream(
                self._method, self._url, content=self._body or None, headers=self._headers, timeout=TIMEOUT
            ) as answer:
                kind = answer.headers.get("content-type", "")
                if answer.status_code != 200 or kind.startswith("application/json"):
                    body = await answer.aread()
                    self._answer(answer.status_code, body)
                    return
                begun = True
                await self._stream(kind, answer.aiter_raw())
        except Exception as error:  # noqa: BLE001 - whatever it is, the client must not wait for ever
            log.warning("forward.failed", error=f"{type(error).__name__}: {error}")
            if begun:
                self._client.break_off(b"")
            else:
                self._client.refuse(AWAY)

    def _answer(self, status: int, body: bytes) -> None:
        if status == 200:
            self._client.respond(200, b"application/json", body)
        else:
            self._client.refuse(read_problem(status, body))

    async def _stream(self, kind: str, chunks: AsyncIterator[bytes]) -> None:
        self._client.start_stream(kind.encode("latin-1"))
        async for chunk in chunks:
            await self._may_write.wait()
            self._client.send(chunk)
        self._client.end_stream()


class _Refusal(msgspec.Struct):
    code: str = "internal"
    detail: str = ""
    param: str | None = None
    openai_code: str | None = None


_decode = msgspec.json.Decoder(_Refusal).decode


def read_problem(status: int, body: bytes) -> Problem:
    """A refusal of the control plane as OpenAI's clients read it."""
    try:
        told = _decode(body)
    except (msgspec.DecodeError, RecursionError):
        return AWAY
    if told.code not in OPENAI_ERRORS or told.code == "internal":
        return AWAY if status >= 500 else Problem(status, INVALID, "invalid_request", told.detail)
    status, kind, code = OPENAI_ERRORS[told.code]
    return Problem(status, kind, told.openai_code or code, told.detail, told.param)
