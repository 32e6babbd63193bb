"""Requests and answers kept by policy, readable by auditors alone. Off unless a project's policy asks for it.

What is kept is sealed here, at once, to the auditors' public key (HPKE, RFC 9180): neither this process nor its disk
can read it again. A request is kept before it goes to an engine, an answer before its last byte goes to the client;
where it cannot be kept, nothing passes. Records lie in one file until the control plane has taken them.

    <folder>/archive.log   frames: length, CRC-32, then the sealed record as JSON
"""

from __future__ import annotations

import base64
import os
import struct
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from finmaas_core.errors import StoreFull, Unavailable
from finmaas_core.telemetry import get_logger
from finmaas_serving.gateway.errors import Problem, problem_of

if TYPE_CHECKING:
    from finmaas_serving.gateway.call import Client
    from finmaas_serving.gateway.snapshot import Key, Route
    from finmaas_serving.guard.policy import Keep

MAX_WAITING_BYTES = 1024 * 1024 * 1024
SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
REQUEST, ANSWER = "request", "answer"
_HEAD = struct.Struct("<II")
_encode = msgspec.json.Encoder().encode
_NOT_KEPT = StoreFull(
    "this request's project keeps its answers, and the gateway cannot: its disk is full", retry_after_s=30
)
log = get_logger()


class Sealed(msgspec.Struct):
    """One kept text. `sealed` is base64; who, when and how long is in the clear, and bound to it."""

    kept_id: str  # request id and part, unique over all gateways
    part: str  # request | answer
    request_id: str
    tenant_id: str
    project_id: str
    key_id: str
    endpoint_id: str
    at: float  # epoch seconds
    days: int
    sealed: str


def binding(kept_id: str, tenant_id: str, project_id: str) -> bytes:
    """What a sealed text is bound to: moved to another record it cannot be opened."""
    return "\0".join(("finmaas archive v1", kept_id, tenant_id, project_id)).encode()


class Archive:
    """What this gateway keeps until it is delivered."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / "archive.log"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = _cut_torn(self._fd)
        self._delivered = 0  # bytes from the start that the control plane has
        self.dirty = False
        self._public: tuple[str, X25519PublicKey] | None = None

    @property
    def waiting_bytes(self) -> int:
        return self._size - self._delivered

    def keep(self, public_key: str, record: Sealed, text: bytes) -> None:
        """Seals a text to the auditors' key (hex) and appends it. StoreFull when the disk takes no more."""
        if self._public is None or self._public[0] != public_key:
            self._public = (public_key, X25519PublicKey.from_public_bytes(bytes.fromhex(public_key)))
        bound = binding(record.kept_id, record.tenant_id, record.project_id)
        record.sealed = base64.b64encode(SUITE.encrypt(text, self._public[1], bound)).decode()
        payload = _encode(record)
        frame = _HEAD.pack(len(payload), zlib.crc32(payload)) + payload
        if self.waiting_bytes + len(frame) > MAX_WAITING_BYTES:
            raise _NOT_KEPT
        try:
            written = os.write(self._fd, frame)
        except OSError as error:
            raise _NOT_KEPT from error
        if written < len(frame):
            os.ftruncate(self._fd, self._size)
            raise _NOT_KEPT
        self._size += written
        self.dirty = True

    def sync(self) -> None:
        """Onto the disk's surface; called with the spool's group fsync."""
        self.dirty = False
        os.fdatasync(self._fd)

    def read(self, limit_bytes: int) -> tuple[list[bytes], int]:
        """Records not delivered yet, about so many bytes of them, and where they end in the file."""
        data = os.pread(self._fd, limit_bytes, self._delivered)
        found, at = _frames(data)
        if not found and len(data) >= _HEAD.size:  # one record is longer than the limit
            data = os.pread(self._fd, _HEAD.unpack_from(data)[0] + _HEAD.size, self._delivered)
            found, at = _frames(data)
        return found, self._delivered + at

    def acknowledge(self, upto: int) -> None:
        """The control plane has everything up to here; a file that is delivered whole begins anew."""
        self._delivered = upto
        if upto and upto == self._size:
            os.ftruncate(self._fd, 0)
            self._size = self._delivered = 0

    def close(self) -> None:
        os.close(self._fd)


class Keeper:
    """Keeps one call: stands between it and its client, sees what the client gets, and ends what cannot be kept."""

    def __init__(
        self, archive: Archive | None, public_key: str, keep: Keep, key: Key, route: Route, request_id: str
    ) -> None:
        """Unavailable without an archive, or when the control plane has told no key to seal to."""
        if archive is None:
            raise Unavailable("this project keeps its requests, and this gateway has no archive")
        if not public_key:
            raise Unavailable("this project keeps its requests, and the gateway knows no key to seal them with yet")
        self._archive = archive
        self._public_key = public_key
        self._keep = keep
        self._key = key
        self._route = route
        self._request_id = request_id
        self._parts: list[bytes] = []
        self._done = not keep.answers

    def keep_request(self, body: bytes) -> None:
        """Before anything is sent. StoreFull."""
        if self._keep.requests:
            self._store(REQUEST, body)

    def watch(self, client: Client) -> Client:
        """What the call is to answer to."""
        return _Watched(self, client) if self._keep.answers else client

    def note(self, data: bytes) -> None:
        self._parts.append(data)

    def keep_answer(self) -> StoreFull | None:
        """Keeps what the client got or is about to get, once; the reason when that fails."""
        if self._done:
            return None
        self._done = True
        try:
            self._store(ANSWER, b"".join(self._parts))
        except StoreFull as error:
            log.error("archive.full", request_id=self._request_id)
            return error
        return None

    def _store(self, part: str, text: bytes) -> None:
        key, kept_id = self._key, f"{self._request_id}.{part}"
        fields = (kept_id, part, self._request_id, key.tenant_id, key.project_id, key.key_id, self._route.endpoint_id)
        self._archive.keep(self._public_key, Sealed(*fields, time.time(), self._keep.days, ""), text)


class _Watched:
    """The client of a call whose answer is kept (`call.Client`)."""

    def __init__(self, keeper: Keeper, client: Client) -> None:
        self._keeper = keeper
        self._client = client

    def respond(self, status: int, content_type: bytes, body: bytes, extra: bytes = b"") -> None:
        self._keeper.note(body)
        failed = self._keeper.keep_answer()
        if failed is None:
            self._client.respond(status, content_type, body, extra)
        else:
            self._client.refuse(problem_of(failed))

    def refuse(self, problem: Problem) -> None:
        self._keeper.note(problem.body())
        self._keeper.keep_answer()  # an error holds no text of a model
        self._client.refuse(problem)

    def start_stream(self, content_type: bytes, extra: bytes = b"") -> None:
        self._client.start_stream(content_type, extra)

    def send(self, data: bytes) -> None:
        self._keeper.note(data)
        self._client.send(data)

    def end_stream(self) -> None:
        failed = self._keeper.keep_answer()
        if failed is None:
            self._client.end_stream()
        else:
            self._client.break_off(problem_of(failed).event())

    def break_off(self, data: bytes) -> None:
        self._keeper.note(data)
        self._keeper.keep_answer()
        self._client.break_off(data)


def _frames(data: bytes) -> tuple[list[bytes], int]:
    """The whole frames at the start of some bytes, and where they end."""
    found, at = [], 0
    while at + _HEAD.size <= len(data):
        length, crc = _HEAD.unpack_from(data, at)
        payload = data[at + _HEAD.size : at + _HEAD.size + length]
        if len(payload) < length or zlib.crc32(payload) != crc:
            break
        found.append(payload)
        at += _HEAD.size + length
    return found, at


def _cut_torn(fd: int) -> int:
    """The size of the whole frames of a file; what a dying process left behind them is cut off."""
    at, size = 0, os.fstat(fd).st_size
    while at + _HEAD.size <= size:
        length, crc = _HEAD.unpack(os.pread(fd, _HEAD.size, at))
        if at + _HEAD.size + length > size or zlib.crc32(os.pread(fd, length, at + _HEAD.size)) != crc:
            break
        at += _HEAD.size + length
    os.ftruncate(fd, at)
    return at
