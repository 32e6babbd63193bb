"""Raw connections to the control plane, for what an HTTP library does too late or too slowly.

A library reads an answer only after the last byte of a body, and takes half a millisecond and more for each delivery of
usage, in which no request moves on.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable
from functools import cache
from typing import Protocol

import httptools
import httpx

ANSWER_BYTES = 1024 * 1024
CONNECT_S = 5.0
ANSWER_S = 30.0
_READ_BYTES = 64 * 1024
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Post(Protocol):
    """Sends JSON to a path of the control plane and waits for so many seconds.

    Status and body of the answer; OSError when none came, though the question may have arrived.
    """

    def __call__(self, path: str, body: bytes, wait_s: float = ANSWER_S) -> Awaitable[tuple[int, bytes]]: ...


class ControlLine:
    """Connections that are kept open, each for one question at a time."""

    def __init__(self, api: httpx.AsyncClient) -> None:
        """Where `api` asks, and with its token."""
        self._api = api
        self._idle: list[Ends] = []
        self._heads: dict[str, bytes] = {}

    async def post(self, path: str, body: bytes, wait_s: float = ANSWER_S) -> tuple[int, bytes]:
        """As `Post` says."""
        reader, writer = self._take_idle() or await connect(self._api.base_url)
        try:
            writer.write(self._head(path) % len(body))
            writer.write(body)
            async with asyncio.timeout(wait_s):
                status, answer, stays = await read_answer(reader)
        except BaseException:
            writer.transport.abort()
            raise
        if stays:
            self._idle.append((reader, writer))
        else:
            writer.close()
        return status, answer

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    def _take_idle(self) -> Ends | None:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()  # the control plane closes what was idle for long
        return None

    def _head(self, path: str) -> bytes:
        """With a place for the length of the body."""
        head = self._heads.get(path)
        if head is None:
            lines = request_head(self._api, path, {b"content-type": b"application/json"}).replace(b"%", b"%%")
            head = self._heads[path] = lines + b"content-length: %d\r\n\r\n"
        return head


def request_head(api: httpx.AsyncClient, path: str, headers: dict[bytes, bytes]) -> bytes:
    """Head of a POST with the client's token and these headers, without what frames the body and without its end."""
    request = api.build_request("POST", path, headers=headers)
    told = (b"host", b"authorization", *headers)
    lines = b"".join(b"%b: %b\r\n" % line for line in request.headers.raw if line[0].lower() in told)
    return b"POST %b HTTP/1.1\r\n%b" % (request.url.raw_path, lines)


async def connect(url: httpx.URL) -> Ends:
    """Connects, by TLS where the address says so. OSError when that fails or takes too long."""
    tls = url.scheme == "https"
    async with asyncio.timeout(CONNECT_S):
        return await asyncio.open_connection(url.host, url.port or (443 if tls else 80), ssl=_trust() if tls else None)


@cache
def _trust() -> ssl.SSLContext:
    """Whom the client for all else trusts too."""
    return httpx.create_ssl_context(trust_env=False)


class _Answer:
    """An answer as its parser reports it."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.body = bytearray()
        self.whole = self.stays = False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.whole = self.parser.get_status_code() >= 200  # 100: go on
        self.stays = self.parser.should_keep_alive()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Status and body of an answer, and whether the connection stays open. ConnectionError when none comes whole."""
    answer = _Answer()
    while not answer.whole:
        data = await reader.read(_READ_BYTES)
        if not data:
            raise ConnectionError("it closed the connection without an answer")
        try:
            answer.parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise ConnectionError(f"its answer cannot be understood: {error}") from None
        if len(answer.body) > ANSWER_BYTES:
            raise ConnectionError("its answer is too long")
    return answer.parser.get_status_code(), bytes(answer.body), answer.stays
