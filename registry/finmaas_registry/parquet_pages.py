"""Where the pages of a Parquet file begin: read from its footer and its page headers, no value is decoded.

pyarrow tells the offsets of column chunks, not of pages, so page headers are walked here: the one thing needed of each
is its length. They are Thrift structs in the compact protocol.
Format: https://parquet.apache.org/docs/file-format/data-pages/
"""

from __future__ import annotations

from collections.abc import Callable

HEADER_BYTES = 64 << 10
"""More than a page header needs, with the statistics that may lie in it."""
ReadAt = Callable[[int, int], bytes]

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_COMPRESSED_SIZE = 3


def find_pages(size: int, read: ReadAt) -> list[int]:
    """The offsets at which pages and column chunks begin or end, sorted; none for a file that cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq  # loads slowly

    try:
        metadata = pq.read_metadata(pa.PythonFile(_Seekable(size, read), mode="r"))
    except (pa.ArrowException, OSError, ValueError):
        return []
    bounds: set[int] = set()
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for number in range(row_group.num_columns):
            column = row_group.column(number)
            first = column.dictionary_page_offset or column.data_page_offset
            bounds.update(_walk(first, first + column.total_compressed_size, read))
    return sorted(bounds)


def _walk(start: int, end: int, read: ReadAt) -> list[int]:
    """The bounds of the pages of one column chunk; of one that cannot be understood, its own bounds only."""
    bounds = [start]
    while bounds[-1] < end:
        try:
            length, compressed = _read_page_header(read(bounds[-1], min(HEADER_BYTES, end - bounds[-1])))
        except (IndexError, ValueError):
            return [start, end]
        bounds.append(bounds[-1] + length + compressed)
    return bounds if bounds[-1] == end else [start, end]


def _read_page_header(data: bytes) -> tuple[int, int]:
    """(bytes of the header, bytes of the page after it)"""
    at, field, compressed = 0, 0, -1
    while data[at]:
        delta, kind = data[at] >> 4, data[at] & 15
        at += 1
        if delta:
            field += delta
        else:
            raw, at = _varint(data, at)
            field = _zigzag(raw)
        if field == _COMPRESSED_SIZE and kind == _I32:
            raw, at = _varint(data, at)
            compressed = _zigzag(raw)
        else:
            at = _skip(data, at, kind)
    if compressed < 0:
        raise ValueError("a page header without a size")
    return at + 1, compressed


def _skip(data: bytes, at: int, kind: int) -> int:
    """Where the value of a field ends."""
    if kind in (_TRUE, _FALSE):
        return at
    if kind == _BYTE:
        return at + 1
    if kind in (_I16, _I32, _I64):
        return _varint(data, at)[1]
    if kind == _DOUBLE:
        return at + 8
    if kind == _BINARY:
        length, at = _varint(data, at)
        return at + length
    if kind == _STRUCT:
        return _skip_struct(data, at)
    raise ValueError(f"a page header with a field of type {kind}")


def _skip_struct(data: bytes, at: int) -> int:
    while data[at]:
        delta, kind = data[at] >> 4, data[at] & 15
        at += 1
        if not delta:
            at = _varint(data, at)[1]
        at = _skip(data, at, kind)
    return at + 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _zigzag(value: int) -> int:
    return (value >> 1) ^ -(value & 1)


class _Seekable:
    """The little of a file that pyarrow needs to read a footer."""

    closed = False

    def __init__(self, size: int, read: ReadAt) -> None:
        self._size, self._read, self._at = size, read, 0

    def read(self, count: int = -1) -> bytes:
        data = self._read(self._at, self._size - self._at if count < 0 else count)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        """The caller's file stays open."""
