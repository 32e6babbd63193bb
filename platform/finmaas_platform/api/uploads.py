"""Request bodies of any size, taken as a stream by code that runs in a thread.

A route that uses this is `async`, holds no database session while bytes arrive, and never the body in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
from fastapi import Request
from starlette.requests import ClientDisconnect

from finmaas_core.errors import InvalidInput

T = TypeVar("T")
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
        chunks = request.stream()

        def body() -> Iterator[bytes]:
            size = 0
            while True:
                try:
                    chunk: bytes = anyio.from_thread.run(chunks.__anext__)
                except StopAsyncIteration:
                    return
                except ClientDisconnect as error:
                    raise InvalidInput(f"the upload broke off after {size} bytes; send it again") from error
                size += len(chunk)
                if size > max_bytes:
                    raise _too_long(max_bytes)
                yield chunk

        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._limit)
        return await anyio.to_thread.run_sync(lambda: take(body()), limiter=self._limiter)


def check_length(request: Request, max_bytes: int) -> None:
    """Raises InvalidInput before a byte is read when the announced length is too much."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise _too_long(max_bytes)


def _too_long(max_bytes: int) -> InvalidInput:
    return InvalidInput(f"the upload is longer than {max_bytes:,} bytes; split it or ask an admin to raise the bound")
