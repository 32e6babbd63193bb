"""Bytes of HTTP/1.1 messages: heads of answers and of requests to replicas. Pure; parses nothing."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

JSON: Final = b"application/json"
LAST_CHUNK: Final = b"0\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

Header = tuple[bytes, bytes]

_STATUS_LINES: Final = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
MAX_ECHO_BYTES: Final = 128


def padded(number: int, full: int) -> bytes:
    """A number below `full`, a power of ten, with as many digits as the greatest below it.

    Compiled code knows `%d` and `%b`; with `%03d` or `%.3f` in it the whole format takes the slow way.
    """
    return (b"%d" % (full + number))[1:]


def status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d Status\r\n" % status


def answer_head(status: int, content_type: bytes, lines: bytes, length: int | None, close: bool) -> bytes:
    """Head of an answer; `length` None means that the body follows in chunks (or, with `close`, up to the end)."""
    parts = [status_line(status), b"content-type: ", content_type, b"\r\n", lines]
    if length is not None:
        parts.append(b"content-length: %d\r\n" % length)
    if close:
        parts.append(b"connection: close\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


def header_lines(headers: Iterable[Header]) -> bytes:
    """Headers as they stand in a head, each with its line end."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def plain_answer(content_type: bytes, request_id: str, lines: bytes, body: bytes) -> bytes:
    """The usual answer, whole: 200, and the connection stays open. `lines` are more headers (`header_lines`)."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\nx-request-id: %b\r\n%bcontent-length: %d\r\n\r\n%b" % (
        content_type, request_id.encode(), lines, len(body), body,
    )  # fmt: skip


def chunk(data: bytes) -> bytes:
    """Data framed as one chunk of a chunked body. Empty data would end the body, so it gives nothing."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def upstream_request(path: bytes, host: bytes, request_id: bytes, body: bytes, door: bytes = b"") -> bytes:
    """A request to a replica. Nothing of the client's head travels on, its credential least of all.

    `door` is the header line that opens the replica's port, with its line end.
    """
    return (
        b"POST %b HTTP/1.1\r\nhost: %b\r\ncontent-type: application/json\r\naccept: */*\r\n"
        b"x-request-id: %b\r\n%bcontent-length: %d\r\n\r\n%b" % (path, host, request_id, door, len(body), body)
    )


def echo_of(value: bytes | None) -> bytes | None:
    """The client's own request id as it may be sent back: short, visible ASCII; else nothing."""
    if value and len(value) <= MAX_ECHO_BYTES and all(0x21 <= byte <= 0x7E for byte in value):
        return value
    return None
