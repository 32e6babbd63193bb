"""A file on its way to the control plane: handed on as it comes, on a connection of its own. Not hot, never held whole.

A client is read no further than the control plane takes. The answer is listened for while the body is still on its way,
so a refusal reaches the client at once. Whichever side leaves first, both connections end, and the control plane
forgets what it had of the form.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import httpx

from finmaas_core.telemetry import get_logger
from finmaas_serving.gateway import errors, wire
from finmaas_serving.gateway.control_line import connect, read_answer, request_head
from finmaas_serving.gateway.errors import Problem
from finmaas_serving.gateway.forward import AWAY, TIMEOUT, headers_of, read_problem, url_of

if TYPE_CHECKING:
    from finmaas_serving.gateway.context import Gateway
    from finmaas_serving.gateway.snapshot import Key

AHEAD_BYTES = 256 * 1024
"""What may wait to be handed on before the client is read no further."""
ANSWER_S = TIMEOUT.read
log = get_logger()


class Client(Protocol):
    """The client's side, as an upload sees it."""

    def invite(self) -> None:
        """Tells a client that waits for it (`Expect: 100-continue`) to send the body."""

    def respond(self, status: int, content_type: bytes, body: bytes) -> None: ...

    def refuse(self, problem: Problem) -> None: ...


class Body:
    """What has come of a body and has not been handed on; `changed` is called when `full` may be another."""

    __slots__ = ("_changed", "_ended", "_held", "_news", "_problem")

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._held = bytearray()
        self._ended = False
        self._problem: Problem | None = None
        self._news = asyncio.Event()

    @property
    def full(self) -> bool:
        return len(self._held) >= AHEAD_BYTES

    @property
    def spent(self) -> bool:
        """True once all of it came and was taken."""
        return self._ended and not self._held

    def feed(self, data: bytes) -> None:
        self._held += data
        self._news.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    def fail(self, problem: Problem) -> None:
        """No more of it is taken, for this reason."""
        self._problem = problem
        self._news.set()

    async def take(self) -> bytes:
        """What has come, at least a byte; b"" at the end. Refused when the body will not come whole."""
        while not self._held and not self._ended and self._problem is None:
            self._news.clear()
            await self._news.wait()
        if self._problem is not None:
            raise Refused(self._problem)
        taken = bytes(self._held)
        self._held.clear()
        self._changed()
        return taken


class Refused(Exception):
    """Why the upload ends, as its client is told."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Upload:
    """One body and the answer to it."""

    def __init__(
        self, gateway: Gateway, client: Client, key: Key, target: str, content_type: bytes, length: int, body: Body
    ) -> None:
        """`length` as announced; 0 where the client said none."""
        self._gateway = gateway
        self._client = client
        self._url = url_of(target)
        self._headers = headers_of(key, content_type)
        self._length = length
        self._until = gateway.loop.time() + gateway.limits.upload_s
        self._body = body
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connects, and lets the client send."""
        gateway = self._gateway
        if gateway.control_plane is None:
            self._client.refuse(AWAY)
        elif gateway.uploading >= gateway.limits.uploads:
            self._client.refuse(errors.busy_uploads(gateway.limits.uploads))
        else:
            gateway.uploading += 1
            self._task = gateway.loop.create_task(self._run(gateway.control_plane))
            self._task.add_done_callback(self._leave)

    def client_gone(self) -> None:
        """The client left: the connection to the control plane is closed at once."""
        if self._task is not None:
            self._task.cancel()

    def pause(self) -> None:
        """The client reads too slowly; its answer is short."""

    def resume(self) -> None: ...

    def overdue(self, now: float) -> bool:
        """Never: it bounds its own time, and says so to the client."""
        return False

    def _leave(self, _: asyncio.Task[None]) -> None:
        self._gateway.uploading -= 1

    async def _run(self, api: httpx.AsyncClient) -> None:
        try:
            status, body = await self._pass_on(api)
        except Refused as refused:
            self._client.refuse(refused.problem)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client must not wait for ever
            log.warning("upload.failed", error=f"{type(error).__name__}: {error}")
            self._client.refuse(AWAY)
        else:
            if status == 200:
                self._client.respond(200, wire.JSON, body)
            else:
                self._client.refuse(read_problem(status, body))

    async def _pass_on(self, api: httpx.AsyncClient) -> tuple[int, bytes]:
        """Status and body of the answer."""
        reader, writer = await connect(api.base_url)
        answering = asyncio.ensure_future(read_answer(reader))
        sending = asyncio.ensure_future(self._send(api, writer))
        try:
            await asyncio.wait((answering, sending), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                with contextlib.suppress(ConnectionError):  # of one that takes no more, the last words count
                    await sending
            async with asyncio.timeout(ANSWER_S):
                status, body, _ = await answering
            if status < 400 and not self._body.spent:
                raise ConnectionError(f"it answered {status} before it had the whole body")
            return status, body
        finally:
            answering.cancel()
            sending.cancel()
            writer.transport.abort()
            await asyncio.gather(answering, sending, return_exceptions=True)

    async def _send(self, api: httpx.AsyncClient, writer: asyncio.StreamWriter) -> None:
        """Head and body, no faster than they are taken."""
        writer.write(self._head(api))
        self._client.invite()
        while data := await self._take():
            writer.write(data if self._length else wire.chunk(data))
            async with asyncio.timeout(self._gateway.limits.gap_s):
                await writer.drain()
        if not self._length:
            writer.write(wire.LAST_CHUNK)

    async def _take(self) -> bytes:
        try:
            loop, limits = self._gateway.loop, self._gateway.limits
            async with asyncio.timeout_at(min(loop.time() + limits.stalled_s, self._until)):
                return await self._body.take()
        except TimeoutError:
            why = "the rest of the file did not arrive in time; send it again"
            raise Refused(errors.bad_http(why, 408, "request_timeout")) from None

    def _head(self, api: httpx.AsyncClient) -> bytes:
        framing = b"content-length: %d" % self._length if self._length else b"transfer-encoding: chunked"
        return request_head(api, self._url, self._headers) + framing + b"\r\n\r\n"
