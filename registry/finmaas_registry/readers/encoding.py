"""Which encoding a text file has: UTF-8 (with or without BOM), UTF-16 with BOM, or GB18030 (which covers GBK).

The whole file is decoded once before anything is read, so a broken byte is named before work begins.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from finmaas_core.errors import InvalidInput

_CHUNK_BYTES = 1 << 20
# The share of non-ASCII characters that must be Chinese for a file to pass as GB18030.
_LEAST_CHINESE = 0.7


def detect_encoding(path: Path, name: str) -> str:
    """The codec to read a file with. Raises InvalidInput that names the byte and line that no encoding explains."""
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _tried(path, name, "utf-16")
    if start.startswith(codecs.BOM_UTF8):
        return _tried(path, name, "utf-8-sig")
    fault = _find_fault(path, "utf-8")
    if fault is None:
        return "utf-8"
    if not _has_utf8_before(path, fault) and _is_chinese(path):
        return "gb18030"
    raise _wrong_byte(path, name, fault)


def _tried(path: Path, name: str, encoding: str) -> str:
    fault = _find_fault(path, encoding)
    if fault is not None:
        raise _wrong_byte(path, name, fault)
    return encoding


def _find_fault(path: Path, encoding: str) -> int | None:
    """The offset of the first byte that the codec refuses, or None."""
    decoder = codecs.getincrementaldecoder(encoding)()
    done = 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(_CHUNK_BYTES)
            held = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                return done - held + error.start
            done += len(chunk)
            if not chunk:
                return None


def _has_utf8_before(path: Path, offset: int) -> bool:
    """Whether characters beyond ASCII stand before the fault: then it is UTF-8 with a broken byte in it."""
    with path.open("rb") as file:
        left = offset
        while left > 0 and (chunk := file.read(min(_CHUNK_BYTES, left))):
            if not chunk.isascii():
                return True
            left -= len(chunk)
    return False


def _is_chinese(path: Path) -> bool:
    """Whether the file is valid GB18030 and what it says beyond ASCII is mostly Chinese."""
    decoder = codecs.getincrementaldecoder("gb18030")()
    beyond = chinese = 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(_CHUNK_BYTES)
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError:
                return False
            wide = [char for char in text if char > "\x7f"]
            beyond += len(wide)
            chinese += sum(
                "\u4e00" <= c <= "\u9fff" or "\u3000" <= c <= "\u303f" or "\uff00" <= c <= "\uffef" for c in wide
            )
            if not chunk:
                return beyond > 0 and chinese >= _LEAST_CHINESE * beyond


def _wrong_byte(path: Path, name: str, offset: int) -> InvalidInput:
    line = 1
    with path.open("rb") as file:
        left = offset
        while left > 0 and (chunk := file.read(min(_CHUNK_BYTES, left))):
            line += chunk.count(b"\n")
            left -= len(chunk)
        value = file.read(1)
    found = f"0x{value[0]:02x}" if value else "the end of the file"
    return InvalidInput(
        f"{name} line {line}: byte {offset + 1} ({found}) is neither UTF-8 nor GB18030; save the file as UTF-8",
        file=name,
        line=line,
        byte=offset + 1,
    )
