"""Request bodies of any size, taken as a stream by code that runs in a thread.

A route that uses this is `async`, holds no database session while bytes arrive, and never the body in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
from fastapi import Request
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from finmaas_core.errors import FinmaasError, InvalidInput
from finmaas_platform.api.middleware import UPLOAD

T = TypeVar("T")
CHUNK_BYTES = 1 << 20
AHEAD = 4
"""Chunks that may wait for the thread."""
MAX_UPLOADS = 16
"""Uploads at once in one process; more wait. Apart from the threads that all other routes share."""


class Uploads:
    """Runs what takes uploads, in threads of its own."""

    def __init__(self, limit: int = MAX_UPLOADS) -> None:
        self._limit = limit
        self._limiter: anyio.CapacityLimiter | None = None

    async def run(self, request: Request, max_bytes: int, take: Callable[[Iterator[bytes]], T]) -> T:
        """What `take` makes of the body's chunks. Raises InvalidInput when it is too long or breaks off."""
        check_length(request, max_bytes)
        body = _Body(request, max_bytes)
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._limit)
        request.scope[UPLOAD] = True
        pump = asyncio.create_task(body.pump())
        try:
            return await anyio.to_thread.run_sync(lambda: take(body.chunks()), limiter=self._limiter)
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)


class _Body:
    """A request's body, gathered into large chunks on the event loop and read by a thread: few hand-overs, no pile."""

    def __init__(self, request: Request, max_bytes: int) -> None:
        self._request = request
        self._max_bytes = max_bytes
        self._send, self._receive = anyio.create_memory_object_stream[bytes](AHEAD)
        self._error: Exception | None = None

    async def pump(self) -> None:
        """Runs until the body ends; what went wrong is raised where the chunks are read."""
        with self._send:
            try:
                await self._gather()
            except (ClientDisconnect, FinmaasError) as error:
                self._error = error

    async def _gather(self) -> None:
        size, held, held_bytes = 0, list[bytes](), 0
        try:
            async for chunk in self._request.stream():
                size += len(chunk)
                if size > self._max_bytes:
                    raise _too_long(self._max_bytes)
                held.append(chunk)
                held_bytes += len(chunk)
                if held_bytes >= CHUNK_BYTES:
                    await self._send.send(b"".join(held))
                    held, held_bytes = [], 0
        except ClientDisconnect as error:
            raise InvalidInput(f"the upload broke off after {size} bytes; send it again") from error
        if held_bytes:
            await self._send.send(b"".join(held))

    def chunks(self) -> Iterator[bytes]:
        """For the thread."""
        while True:
            try:
                chunk: bytes = anyio.from_thread.run(self._receive.receive)
            except anyio.EndOfStream:
                break
            yield chunk
        if self._error is not None:
            raise self._error


@asynccontextmanager
async def open_form(request: Request, max_bytes: int, *, max_fields: int) -> AsyncIterator[FormData]:
    """A form with one file, which goes to a file without a name on disk while it arrives: it is gone with this process,
    or when the form is left. Raises InvalidInput when the form is too long, breaks off or cannot be read."""
    check_length(request, max_bytes)
    request.scope[UPLOAD] = True
    parser = MultiPartParser(request.headers, _bounded(request, max_bytes), max_files=1, max_fields=max_fields)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, AssertionError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the form cannot be read: {error}", param="file") from None
    try:
        yield form
    finally:
        await form.close()


async def _bounded(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > max_bytes:
                raise _too_long(max_bytes)
            yield chunk
    except ClientDisconnect as error:
        raise InvalidInput(f"the upload broke off after {size} bytes; send it again") from error


def check_length(request: Request, max_bytes: int) -> None:
    """Raises InvalidInput before a byte is read when the announced length is too much."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise _too_long(max_bytes)


def _too_long(max_bytes: int) -> InvalidInput:
    return InvalidInput(f"the upload is longer than {max_bytes:,} bytes; split it or ask an admin to raise the bound")
