"""Bytes of blobs to and from the control plane, with few copies: the kernel sends files, answers land in our buffers.

`SocketWire` is for bulk; `HttpxWire` does the same over the SDK's HTTP client, where a proxy stands between or tests
run the application in this process. Both try again while the control plane restarts.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import httpx

from finmaas_core.errors import FinmaasError, StoreFull, Unavailable
from finmaas_platform.sdk.problems import rebuild_error
from finmaas_platform.sdk.transport import PATIENCE_S, PREFIX, Transport

BUFFER_BYTES = 1 << 20
_CONNECT_S, _IDLE_S = 5.0, 600.0
Sink = Callable[[memoryview], None]
T = TypeVar("T")


class Wire(Protocol):
    """Moves the bytes of one blob."""

    def put(self, digest: str, path: Path, offset: int, size: int) -> None:
        """Sends a piece of a file under its digest."""
        ...

    def get(self, digest: str, offset: int, sink: Sink) -> None:
        """Gives the bytes from an offset on to `sink`, once each, whatever breaks meanwhile."""
        ...


def make_wire(transport: Transport) -> Wire:
    """The faster one where nothing stands between."""
    return HttpxWire(transport) if transport.is_given or _has_proxy(transport.url) else SocketWire(transport)


class HttpxWire:
    """Over the SDK's HTTP client."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def put(self, digest: str, path: Path, offset: int, size: int) -> None:
        self._http.upload("PUT", f"/blobs/{digest}", lambda: _read(path, offset, size), size)

    def get(self, digest: str, offset: int, sink: Sink) -> None:
        at = offset

        def fetch() -> None:
            nonlocal at
            for chunk in self._http.stream_bytes(f"/blobs/{digest}", offset=at):
                at += len(chunk)
                sink(memoryview(chunk))

        _patiently(self._http, lambda: at, fetch)


class SocketWire:
    """Over connections of its own, one a thread, kept open."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport
        self._url = urlsplit(transport.url)
        self._local = threading.local()

    def put(self, digest: str, path: Path, offset: int, size: int) -> None:
        _patiently(self._http, lambda: 0, lambda: self._put(digest, path, offset, size))

    def get(self, digest: str, offset: int, sink: Sink) -> None:
        at = offset

        def counting(chunk: memoryview) -> None:
            nonlocal at
            at += len(chunk)
            sink(chunk)

        _patiently(self._http, lambda: at, lambda: self._get(digest, at, counting))

    def _put(self, digest: str, path: Path, offset: int, size: int) -> None:
        connection = self._connect()
        try:
            connection.putrequest("PUT", f"{self._url.path}{PREFIX}/blobs/{digest}", skip_accept_encoding=True)
            headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
            for name, value in {**self._http.headers, **headers}.items():
                connection.putheader(name, value)
            connection.endheaders()
            with suppress(BrokenPipeError, ConnectionResetError):  # a refusal may come before all is sent
                _send(connection, path, offset, size)
            self._finish(connection.getresponse(), "PUT", digest)
        except BaseException:
            self._drop()
            raise

    def _get(self, digest: str, offset: int, sink: Sink) -> None:
        connection = self._connect()
        headers = {**self._http.headers, **({"Range": f"bytes={offset}-"} if offset else {})}
        try:
            connection.request("GET", f"{self._url.path}{PREFIX}/blobs/{digest}", headers=headers)
            answer = connection.getresponse()
            if answer.status == 416 and offset:  # it broke after the last byte
                answer.read()
                return
            if answer.status != (206 if offset else 200):
                self._finish(answer, "GET", digest)
                raise FinmaasError(f"the blob {digest} was asked from byte {offset} on and came whole; cannot go on")
            _receive(answer, sink)
        except BaseException:
            self._drop()
            raise

    def _connect(self) -> http.client.HTTPConnection:
        found: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if found is None:
            host, port = self._url.hostname or "", self._url.port
            if self._url.scheme == "https":
                found = http.client.HTTPSConnection(
                    host, port, timeout=_CONNECT_S, context=ssl.create_default_context()
                )
            else:
                found = http.client.HTTPConnection(host, port, timeout=_CONNECT_S)
            found.connect()
            found.sock.settimeout(_IDLE_S)
            self._local.connection = found
        return found

    def _drop(self) -> None:
        with suppress(AttributeError, OSError):
            self._local.connection.close()
        self._local.connection = None

    def _finish(self, answer: http.client.HTTPResponse, method: str, digest: str) -> None:
        content = answer.read()
        if not 200 <= answer.status < 300:
            request = httpx.Request(method, f"{self._http.url}{PREFIX}/blobs/{digest}")
            headers = dict(answer.headers.items())
            raise rebuild_error(httpx.Response(answer.status, content=content, request=request, headers=headers))


def _patiently(transport: Transport, progress: Callable[[], int], call: Callable[[], T]) -> T:
    """Calls again while connections break or the control plane is away; each byte of progress renews the patience."""
    seen, deadline, pause_s = progress(), time.monotonic() + PATIENCE_S, 0.1
    while True:
        try:
            return call()
        except (OSError, http.client.HTTPException, httpx.TransportError, Unavailable) as error:
            if isinstance(error, StoreFull):
                raise
            if progress() != seen:
                seen, deadline, pause_s = progress(), time.monotonic() + PATIENCE_S, 0.1
            if time.monotonic() > deadline:
                raise _explain(transport, error) from error
        time.sleep(pause_s)  # another process restarts: there is nothing to wait on
        pause_s = min(2.0, 2 * pause_s)


def _explain(transport: Transport, error: Exception) -> Exception:
    if isinstance(error, FinmaasError):
        return error
    if isinstance(error, httpx.TransportError):
        return transport.explain(error)
    return transport.explain(httpx.ReadError(str(error)))


def _send(connection: http.client.HTTPConnection, path: Path, offset: int, size: int) -> None:
    with path.open("rb") as file:
        if isinstance(connection, http.client.HTTPSConnection):
            for chunk in _read(path, offset, size):
                connection.send(chunk)
        elif size:
            connection.sock.sendfile(file, offset, size)


def _receive(answer: http.client.HTTPResponse, sink: Sink) -> None:
    """Two buffers in turn: whoever hashes one beside us has it until the next but one."""
    buffers = [memoryview(bytearray(BUFFER_BYTES)) for _ in range(2)]
    left = answer.length or 0
    while left:
        buffer = buffers[0]
        count = answer.readinto(buffer[: min(left, BUFFER_BYTES)])
        if not count:
            raise ConnectionResetError(f"the answer broke off, {left} bytes before its end")
        sink(buffer[:count])
        left -= count
        buffers.reverse()
    answer.read()


def _read(path: Path, offset: int, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while size and (chunk := file.read(min(size, BUFFER_BYTES))):
            yield chunk
            size -= len(chunk)


def _has_proxy(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname or "")
