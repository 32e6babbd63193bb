"""Encryption of blobs at rest, as a codec that a store puts between plain bytes and what it writes.

A sealed blob is a header and chunks of 1 MiB, each encrypted with AES-256-GCM under a key of that blob alone, so a
range can be read without the rest. The chunk's number and whether it is the last are part of its nonce: chunks cannot
be swapped, repeated or cut off (the STREAM construction, https://eprint.iacr.org/2015/189). A blob's key is derived
from a data key and the salt in its header; data keys lie wrapped beside the store, and wrapping them anew under another
key (`keyring.py`) rewrites no blob. Digests are those of the plain bytes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from finmaas_core.errors import Corrupt

PLAIN_CHUNK = 1 << 20
TAG_BYTES = 16
SALT_BYTES = 32
ID_BYTES = 16
MAGIC = b"FMSEAL\x00\x01"
HEADER_BYTES = len(MAGIC) + ID_BYTES + SALT_BYTES
_SEALED_CHUNK = PLAIN_CHUNK + TAG_BYTES

ReadFrom = Callable[[int], Iterator[bytes]]
"""What a store holds, from an offset on."""


class Codec(Protocol):
    """What lies between plain bytes and stored ones; `suffix` tells on a blob's name how it is stored."""

    @property
    def suffix(self) -> str: ...

    def seal(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Plain bytes to stored ones."""
        ...

    def unseal(self, read: ReadFrom, offset: int) -> Iterator[bytes]:
        """The plain bytes from an offset on. Raises Corrupt for stored bytes that were changed."""
        ...

    def plain_size(self, stored: int) -> int:
        """The size of a blob, from that of what is stored."""
        ...


class DataKeys(Protocol):
    """The data keys of an installation, unwrapped."""

    def current(self) -> tuple[bytes, bytes]:
        """The id (16 bytes) and the key (32 bytes) for what is written now."""
        ...

    def get(self, key_id: bytes) -> bytes:
        """The key of an id; NotFound."""
        ...


class Plain:
    """Stored as it is."""

    suffix = ""

    def seal(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        return iter(chunks)

    def unseal(self, read: ReadFrom, offset: int) -> Iterator[bytes]:
        return read(offset)

    def plain_size(self, stored: int) -> int:
        return stored


PLAIN = Plain()


class Sealed:
    """Encrypted at rest; see the head of this module."""

    suffix = ".sealed"

    def __init__(self, keys: DataKeys) -> None:
        self._keys = keys

    def seal(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        key_id, data_key = self._keys.current()
        salt = os.urandom(SALT_BYTES)
        yield MAGIC + key_id + salt
        cipher = AESGCM(_derive(data_key, salt))
        number, held = 0, bytearray()
        for chunk in chunks:
            held += chunk
            while len(held) > PLAIN_CHUNK:  # one byte more than a chunk: so this is not the last
                yield cipher.encrypt(_nonce(number, last=False), bytes(held[:PLAIN_CHUNK]), None)
                del held[:PLAIN_CHUNK]
                number += 1
        yield cipher.encrypt(_nonce(number, last=True), bytes(held), None)

    def unseal(self, read: ReadFrom, offset: int) -> Iterator[bytes]:
        """Two reads: the header, and from the chunk that holds the offset on."""
        header = _take(read(0), HEADER_BYTES)
        if not header.startswith(MAGIC) or len(header) != HEADER_BYTES:
            raise Corrupt("a sealed blob has lost its header; restore it from a backup")
        data_key = self._keys.get(header[len(MAGIC) : len(MAGIC) + ID_BYTES])
        cipher = AESGCM(_derive(data_key, header[-SALT_BYTES:]))
        return _open_chunks(cipher, read, offset)

    def plain_size(self, stored: int) -> int:
        body = stored - HEADER_BYTES
        return body - TAG_BYTES * max(1, -(-body // _SEALED_CHUNK))


def _open_chunks(cipher: AESGCM, read: ReadFrom, offset: int) -> Iterator[bytes]:
    number, skip = divmod(offset, PLAIN_CHUNK)
    if offset and not skip:  # an offset at the very end lies after the last chunk, which must still be checked
        number, skip = number - 1, PLAIN_CHUNK
    held, is_last = bytearray(), False
    stored = read(HEADER_BYTES + number * _SEALED_CHUNK)
    while not is_last:
        while len(held) <= _SEALED_CHUNK and (chunk := next(stored, None)) is not None:
            held += chunk
        is_last = len(held) <= _SEALED_CHUNK
        try:
            plain = cipher.decrypt(_nonce(number, last=is_last), bytes(held[:_SEALED_CHUNK]), None)
        except InvalidTag as error:
            raise Corrupt(
                f"chunk {number} of a sealed blob was changed or cut off; restore it from a backup"
            ) from error
        del held[:_SEALED_CHUNK]
        if plain[skip:]:
            yield plain[skip:]
        number, skip = number + 1, 0


def _nonce(number: int, *, last: bool) -> bytes:
    return struct.pack(">3xQB", number, last)


def _derive(data_key: bytes, salt: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, b"finmaas blob").derive(data_key)


def _take(chunks: Iterator[bytes], count: int) -> bytes:
    taken = bytearray()
    for chunk in chunks:
        taken += chunk
        if len(taken) >= count:
            break
    if (close := getattr(chunks, "close", None)) is not None:
        close()
    return bytes(taken[:count])
