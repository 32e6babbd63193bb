"""What happens around every request: its id, its log line, a bound on its body, the last net for errors of ours."""

from __future__ import annotations

import re
import secrets
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from finmaas_core.telemetry import get_logger
from finmaas_platform.api.problems import unhandled_response

REQUEST_ID = "X-Request-ID"
UPLOAD = "finmaas.upload"
"""Set in the scope of a request whose body is read as it comes."""
MAX_BODY_BYTES = 16 * 1024 * 1024
_SANE = re.compile(r"^[A-Za-z0-9._-]{1,64}$")


class RequestContext:
    """Plain ASGI, because a wrapped response class would buffer or cut streams."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope))
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, _bounded(scope, receive), send_with_id)
            except Exception:
                get_logger().exception("request.failed", method=scope["method"], path=scope["path"])
                if status:
                    raise  # the response has begun: the server must cut it, so that nobody takes it for whole
                await unhandled_response()(scope, receive, send_with_id)
            took_ms = round((time.perf_counter() - started) * 1000, 1)
            get_logger().info("request", method=scope["method"], path=scope["path"], status=status, ms=took_ms)


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """Reads no more than MAX_BODY_BYTES of a body that is held whole, which happens before the caller is known.

    Uploads say so in the scope (`UPLOAD`), are read as they come, and have bounds of their own.
    """
    size = 0

    async def read() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY_BYTES and not scope.get(UPLOAD):
            raise HTTPException(413, f"the body is longer than {MAX_BODY_BYTES} bytes; send less at a time")
        return message

    return read


def _request_id(headers: Headers) -> str:
    given = headers.get(REQUEST_ID, "")
    return given if _SANE.match(given) else f"req_{secrets.token_hex(12)}"
