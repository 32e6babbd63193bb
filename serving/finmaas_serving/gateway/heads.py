"""Heads of messages that come again: peers send the same head on a connection, but for the length of the body.

What the parser has taken once, it would take again: a head that is the same byte for byte, apart from the digits of its
one content-length, means the same. So it is compared, not parsed, and only when the whole message came with one read,
while the parser stands between two messages. Everything else goes to the parser. Chunks likewise.
"""

from __future__ import annotations

import re
from typing import Final, Generic, TypeVar

MAX_HEAD_BYTES: Final = 4096
MAX_DIGITS: Final = 9
MAX_LENGTHS: Final = 256

T = TypeVar("T")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})\r\n", re.IGNORECASE)
_match_chunk: Final = re.compile(rb"([0-9a-fA-F]{1,7})\r\n").match


class KnownHead(Generic[T]):
    """A head that was parsed, and what it means."""

    __slots__ = ("_after", "_before", "_digits", "_lengths", "meaning")

    def __init__(self, before: bytes, after: bytes, meaning: T) -> None:
        self._before, self._after = before, after
        self._lengths: dict[bytes, int] = {}  # of digits that were read before
        self._digits = 0  # how many there were last time
        self.meaning = meaning

    def body_of(self, data: bytes) -> bytes | None:
        """The body when the data are one whole message with this head; else None."""
        if not data.startswith(self._before):
            return None
        at = len(self._before)
        end = at + self._digits
        length = self._lengths.get(data[at:end])
        if length is None or not data.startswith(self._after, end):  # not as last time
            length = self._read_length(data, at)
            end = at + self._digits
        body = data[end + len(self._after) :]
        return body if len(body) == length else None

    def _read_length(self, data: bytes, at: int) -> int:
        """The length that stands in a message; -1 when it does not go on as this head does."""
        end = data.find(b"\r", at, at + MAX_DIGITS + 1)
        digits = data[at:end]
        if end < 0 or not digits.isdigit() or not data.startswith(self._after, end):
            return -1
        if len(self._lengths) >= MAX_LENGTHS:
            self._lengths.clear()
        length = self._lengths[digits] = int(digits)
        self._digits = len(digits)
        return length


def learn_head(data: bytes, meaning: T) -> KnownHead[T] | None:
    """From a message that the parser took, head and body whole; None for a head that is better parsed each time."""
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
    if end < 0:
        return None
    head = data[: end + 4]
    found = _LENGTH.search(head)
    if found is None or _LENGTH.search(head, found.end() - 2) or len(data) - len(head) != int(found[1]):
        return None
    return KnownHead(head[: found.start(1)], head[found.end(1) :], meaning)


def split_chunks(data: bytes) -> list[bytes] | None:
    """What chunks hold that came whole; None when a part is missing, for the last chunk, and with extensions."""
    parts = []
    at, total = 0, len(data)
    while at < total:
        found = _match_chunk(data, at)
        if found is None:
            return None
        start = found.end()
        end = start + int(found[1], 16)
        if end == start or data[end : end + 2] != b"\r\n":
            return None
        parts.append(data[start:end])
        at = end + 2
    return parts
