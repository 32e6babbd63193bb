"""Answers that are the bytes of a blob: whole, one range of it, or "you have it" (RFC 9110, sections 13 and 14).

Who may read the blob was decided before; nothing here asks the database.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from finmaas_registry.store import BlobStore

BYTES = "application/octet-stream"
_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")


@dataclass(frozen=True)
class Span:
    """The bytes from `start` up to, not including, `end`."""

    start: int
    end: int
    is_part: bool


def blob_response(
    store: BlobStore, digest: str, size: int, request: Request, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer to a GET or HEAD for a blob of this size, with `headers` added to it."""
    etag = f'"{digest}"'
    sent = {"Accept-Ranges": "bytes", "ETag": etag, **(headers or {})}
    if holds_etag(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=sent)
    if request.method == "HEAD":
        return Response(headers={**sent, "Content-Length": str(size)}, media_type=BYTES)
    if_range = request.headers.get("if-range")
    asked = request.headers.get("range") if if_range in (None, etag) else None
    span = choose_span(asked, size)
    if span is None:
        return Response(status_code=416, headers={**sent, "Content-Range": f"bytes */{size}"})
    sent["Content-Length"] = str(span.end - span.start)
    if span.is_part:
        sent["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{size}"
    chunks = _take(store.open(digest, span.start), span.end - span.start)
    return StreamingResponse(chunks, 206 if span.is_part else 200, sent, BYTES)


def choose_span(asked: str | None, size: int) -> Span | None:
    """What a `Range` header asks of so many bytes; all for none or one that is not understood, None beyond the end."""
    found = _RANGE.match(asked) if asked else None
    if found is None or not any(found.groups()):
        return Span(0, size, is_part=False)
    first, last = found.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    return Span(start, end, is_part=True) if start < end else None


def holds_etag(header: str | None, etag: str) -> bool:
    """Whether an `If-None-Match` names the etag."""
    if header is None:
        return False
    return header.strip() == "*" or etag in (one.strip().removeprefix("W/") for one in header.split(","))


def gather(pieces: Iterable[bytes], size: int = 1 << 20) -> Iterator[bytes]:
    """Small pieces joined to chunks of `size` bytes or more: each chunk is a step of the server."""
    held: list[bytes] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece)
        if count >= size:
            yield b"".join(held)
            held, count = [], 0
    yield b"".join(held)


def _take(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    """The first so many bytes."""
    for chunk in chunks:
        yield chunk[:count]
        count -= len(chunk)
        if count <= 0:
            return
