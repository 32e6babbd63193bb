"""A file as Xet clients fetch it: in chunks that each stand behind a header, told as ranges of xorbs.

Nothing is stored so. The framed form is a view of the plain bytes, with chunks of one size, so that every place in it
follows from a place in the file. Only reading: the hashes of the protocol name things and are compared with nothing,
so a file goes by its SHA-256. Source: https://huggingface.co/docs/xet (download protocol, xorb format).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

CHUNK_BYTES = 128 << 10
"""The longest that the protocol allows."""
HEADER_BYTES = 8
FRAME_BYTES = HEADER_BYTES + CHUNK_BYTES
XORB_CHUNKS = 256
"""Clients fetch xorbs side by side: 32 MiB each."""


def framed_size(size: int) -> int:
    """How many bytes a file of `size` bytes has in the framed form."""
    return size + HEADER_BYTES * _count_chunks(size)


def plan_reconstruction(digest: str, size: int, start: int, end: int, url: str) -> dict[str, Any]:
    """The answer to "how is [start, end) of this file put together": terms in order, and where each is fetched.

    `url` gives ranges of the framed form of the whole file. 0 ≤ start < end ≤ size.
    """
    first, last = start // CHUNK_BYTES, _count_chunks(end)
    terms: list[dict[str, Any]] = []
    fetch_info: dict[str, list[dict[str, Any]]] = {}
    for xorb in range(first // XORB_CHUNKS, -(-last // XORB_CHUNKS)):
        base = xorb * XORB_CHUNKS
        chunks = max(first, base), min(last, base + XORB_CHUNKS)
        name = hashlib.sha256(f"{digest} {xorb}".encode()).hexdigest()
        span = {"start": chunks[0] - base, "end": chunks[1] - base}
        bytes_ = [min(size, at * CHUNK_BYTES) for at in chunks]
        framed = {"start": chunks[0] * FRAME_BYTES, "end": bytes_[1] + HEADER_BYTES * chunks[1] - 1}
        terms.append({"hash": name, "unpacked_length": bytes_[1] - bytes_[0], "range": span})
        fetch_info[name] = [{"range": span, "url": url, "url_range": framed}]
    return {"offset_into_first_range": start - first * CHUNK_BYTES, "terms": terms, "fetch_info": fetch_info}


def plain_start(start: int) -> int:
    """From where the plain bytes are needed for the framed ones from `start` on."""
    return start // FRAME_BYTES * CHUNK_BYTES


def frame(plain: Iterable[bytes], size: int, start: int, end: int) -> Iterator[bytes]:
    """The framed bytes [start, end) of a file of `size` bytes; `plain` are its bytes from `plain_start(start)` on."""
    skip, left = start % FRAME_BYTES, end - start
    for framed in _frame_all(plain, size, plain_start(start)):
        piece = framed[skip : skip + left] if skip or left < len(framed) else framed
        skip, left = max(0, skip - len(framed)), left - len(piece)
        yield piece
        if not left:
            return


def _frame_all(plain: Iterable[bytes], size: int, at: int) -> Iterator[bytes]:
    for data in plain:
        parts: list[bytes | memoryview] = []
        view = memoryview(data)
        while view:
            left = CHUNK_BYTES - at % CHUNK_BYTES
            if left == CHUNK_BYTES:
                parts.append(_header(min(CHUNK_BYTES, size - at)))
            parts.append(view[:left])
            at += len(parts[-1])
            view = view[left:]
        yield b"".join(parts)


def _header(size: int) -> bytes:
    """Version 0, stored size, no compression, plain size."""
    length = size.to_bytes(3, "little")
    return b"\0" + length + b"\0" + length


def _count_chunks(size: int) -> int:
    return -(-size // CHUNK_BYTES)
