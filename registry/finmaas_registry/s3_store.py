"""Blobs in a bucket of an S3 server (MinIO, Ceph, AWS), through the `minio` SDK: one object a blob, under its digest.

Small blobs are one request. Large ones go as parts, several at once, and an upload that was killed is taken up again:
parts that the server holds with the right MD5 are not sent a second time. Reading asks for several ranges ahead. The
SHA-256 is told before an object becomes visible, so a bucket holds whole blobs only.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from functools import cached_property, partial
from itertools import chain, islice
from typing import Any

from minio.datatypes import Part
from minio.error import S3Error

from finmaas_core.errors import Corrupt, NotFound, Unavailable
from finmaas_core.quantities import check_digest
from finmaas_registry.blocks import MAX_BLOCK_BYTES
from finmaas_registry.hashing import SideHasher
from finmaas_registry.s3_client import (
    KNOWN_SHA256,
    OTHER_BYTES,
    S3Address,
    is_missing,
    make_client,
    naming_faults,
    patiently,
)
from finmaas_registry.s3_locks import lock_object, remove_object
from finmaas_registry.sealing import PLAIN, Codec
from finmaas_registry.store import CHUNK_BYTES, Stored, read_chunks

WHOLE_BYTES = MAX_BLOCK_BYTES
"""A blob up to here is one request; blocks of files are, so that only what was put whole comes in parts."""
PART_BYTES = 16 << 20
READ_BYTES = 8 << 20
PARALLEL = 8
READ_PARALLEL = 4
MAX_PARTS = 10_000
STALE_UPLOAD = timedelta(days=2)
"""Parts of an upload that nobody took up again for so long are given back."""


class S3Store:
    """A BlobStore over one bucket. Safe for several processes: equal names hold equal bytes, whoever wins."""

    def __init__(self, address: S3Address, codecs: Sequence[Codec] = (PLAIN,)) -> None:
        self.address = address
        self._codecs = codecs
        self._client: Any = make_client(address)
        self._bucket = address.bucket
        self._pool = ThreadPoolExecutor(2 * PARALLEL, thread_name_prefix="s3")

    def ensure_bucket(self) -> None:
        """Makes the bucket where it is missing, with object lock if the server has it."""
        with naming_faults(self.address):
            if self._client.bucket_exists(self._bucket):
                return
            try:
                self._client.make_bucket(self._bucket, self.address.region, object_lock=True)
            except S3Error as error:
                if error.code not in ("NotImplemented", "InvalidArgument", "MethodNotAllowed"):
                    raise
                self._client.make_bucket(self._bucket, self.address.region)

    def put(self, chunks: Iterable[bytes]) -> Stored:
        """An object needs its name before its first byte, so a stream of unknown digest is spooled first."""
        with tempfile.SpooledTemporaryFile(PART_BYTES) as spool:
            sha256, size = hashlib.sha256(), 0
            for chunk in chunks:
                sha256.update(chunk)
                size += len(chunk)
                spool.write(chunk)
            spool.seek(0)
            return self.put_expected(sha256.hexdigest(), read_chunks(spool, CHUNK_BYTES))

    def put_expected(self, digest: str, chunks: Iterable[bytes]) -> Stored:
        check_digest(digest)
        stream = iter(chunks)
        first = _take(stream, WHOLE_BYTES)
        beyond = next(stream, None)
        with naming_faults(self.address):
            if beyond is None:
                self._put_whole(digest, first)
                return Stored(digest, sum(map(len, first)))
            with _Check() as check:
                sealed = self._codecs[0].seal(check.watch(chain(first, [beyond], stream)))
                self._put_parts(digest, _cut(sealed), check)
                return Stored(digest, check.size)

    def open(self, digest: str, offset: int = 0) -> Iterator[bytes]:
        for codec in self._codecs:
            with naming_faults(self.address):
                size = self._find_size(check_digest(digest), codec)
            if size is not None:
                return codec.unseal(partial(self._read, self._key(digest, codec), size), offset)
        raise NotFound(f"there is no blob {digest} in the store")

    def stat(self, digest: str) -> int | None:
        for codec in self._codecs:
            with naming_faults(self.address):
                size = self._find_size(check_digest(digest), codec)
            if size is not None:
                return codec.plain_size(size)
        return None

    def list(self) -> Iterator[str]:
        with naming_faults(self.address):
            for found in self._client.list_objects(self._bucket, self.address.prefix, recursive=True):
                yield found.object_name.removeprefix(self.address.prefix).partition(".")[0]

    def delete(self, digest: str) -> datetime | None:
        """Removes every version of a blob's object; of one that is locked, says until when."""
        with naming_faults(self.address):
            keys = sorted({self._key(check_digest(digest), codec) for codec in self._codecs})
            kept = [remove_object(self._client, self._bucket, key) for key in keys]
        return max((until for until in kept if until is not None), default=None)

    can_lock = True

    def retain(self, digest: str, until: datetime) -> bool:
        for codec in self._codecs:
            key = self._key(check_digest(digest), codec)
            try:
                with naming_faults(self.address):
                    return lock_object(self._client, self._bucket, key, until)
            except Unavailable as error:
                if not isinstance(error.__cause__, S3Error) or not is_missing(error.__cause__):
                    raise
        raise NotFound(f"there is no blob {digest} in the store")

    def sweep(self) -> int:
        """Gives back parts of uploads that were killed and not taken up again, and says how many uploads that were."""
        with naming_faults(self.address):
            stale = [
                one
                for one in self._uploads(self.address.prefix)
                if datetime.now(one.initiated_time.tzinfo) - one.initiated_time > STALE_UPLOAD
            ]
            for one in stale:
                self._client._abort_multipart_upload(self._bucket, one.object_name, one.upload_id)  # noqa: SLF001
        return len(stale)

    def _key(self, digest: str, codec: Codec | None = None) -> str:
        return f"{self.address.prefix}{digest}{(codec or self._codecs[0]).suffix}"

    def _find_size(self, digest: str, codec: Codec | None = None) -> int | None:
        try:
            size: int = patiently(lambda: self._client.stat_object(self._bucket, self._key(digest, codec)).size)
        except S3Error as error:
            if is_missing(error):
                return None
            raise
        return size

    # --- writing in one request ---------------------------------------------------------------------------------

    def _put_whole(self, digest: str, chunks: Sequence[bytes]) -> None:
        is_plain = self._codecs[0] is PLAIN
        is_held = self._find_size(digest) is not None
        if is_held or not is_plain or not self._server_compares:
            _check(digest, chunks)
        if is_held:
            return
        key = self._key(digest)
        if is_plain:
            self._put_signed(key, digest, chunks)
        else:
            sealed = b"".join(self._codecs[0].seal(chunks))
            patiently(lambda: self._client._put_object(self._bucket, key, sealed, _HEADERS.copy()))  # noqa: SLF001

    def _put_signed(self, key: str, digest: str, chunks: Sequence[bytes]) -> None:
        """The server is told the digest, signed, and refuses other bytes: nothing is hashed here."""
        headers = _HEADERS | {KNOWN_SHA256: digest}
        try:
            patiently(lambda: self._client._put_object(self._bucket, key, chunks, headers.copy()))  # noqa: SLF001
        except S3Error as error:
            if error.code not in OTHER_BYTES:
                raise
            raise Corrupt(f"the bytes are not those of {digest}; read the file again and send it whole") from error

    @cached_property
    def _server_compares(self) -> bool:
        """Whether the server refuses bytes that are not those of the signed digest. Tried once, with a blob that may
        stay: its name is right, the digest that is signed is not."""
        data, signed = b"finmaas", hashlib.sha256(b"other bytes").hexdigest()
        try:
            self._put_signed(self._key(hashlib.sha256(data).hexdigest()), signed, [data])
        except Corrupt:
            return True
        return False

    # --- writing in parts ---------------------------------------------------------------------------------------

    def _put_parts(self, digest: str, parts: Iterator[bytes], check: _Check) -> None:
        """Sends parts, PARALLEL at once, while later ones are read and hashed; completes only the right digest."""
        key = self._key(digest)
        upload, held = self._find_upload(key) if self._codecs[0] is PLAIN else (None, {})
        upload = upload or self._client._create_multipart_upload(self._bucket, key, _HEADERS.copy())  # noqa: SLF001
        try:
            sent = self._send_parts(key, upload, parts, held)
            check.expect(digest)
            self._client._complete_multipart_upload(self._bucket, key, upload, sent)  # noqa: SLF001
        except Corrupt:
            self._client._abort_multipart_upload(self._bucket, key, upload)  # noqa: SLF001
            raise
        except S3Error as error:
            # Another writer of the same bytes took up the same upload and was first.
            if error.code != "NoSuchUpload" or self._find_size(digest) is None:
                raise
            deque(parts, maxlen=0)
            check.expect(digest)

    def _send_parts(self, key: str, upload: str, parts: Iterator[bytes], held: Mapping[int, str]) -> Sequence[Part]:
        sending: deque[Future[Part]] = deque()
        sent: deque[Part] = deque()
        try:
            for number, data in enumerate(parts, start=1):
                if len(sending) == PARALLEL:
                    sent.append(sending.popleft().result())
                sending.append(self._pool.submit(self._send_part, key, upload, number, data, held.get(number)))
            while sending:
                sent.append(sending.popleft().result())
        finally:
            for future in sending:
                future.cancel()
        return [*sent]

    def _send_part(self, key: str, upload: str, number: int, data: bytes, held: str | None) -> Part:
        if held is not None and held == hashlib.md5(data, usedforsecurity=False).hexdigest():
            return Part(number, held)
        etag = patiently(lambda: self._client._upload_part(self._bucket, key, data, None, upload, number))  # noqa: SLF001
        return Part(number, etag)

    def _find_upload(self, key: str) -> tuple[str | None, dict[int, str]]:
        """An unfinished upload of the same name, and the MD5 of each part that the server holds."""
        for one in self._uploads(key):
            if one.object_name == key:
                return one.upload_id, dict(self._parts(key, one.upload_id))
        return None, {}

    def _uploads(self, prefix: str) -> Sequence[Any]:
        found: Sequence[Any] = self._client._list_multipart_uploads(self._bucket, prefix=prefix).uploads  # noqa: SLF001
        return found

    def _parts(self, key: str, upload: str) -> Iterator[tuple[int, str]]:
        marker: str | None = None
        while True:
            page = self._client._list_parts(self._bucket, key, upload, part_number_marker=marker)  # noqa: SLF001
            for part in page.parts:
                yield part.part_number, part.etag.strip('"')
            if not page.is_truncated:
                return
            marker = str(page.next_part_number_marker)

    # --- reading in ranges --------------------------------------------------------------------------------------

    def _read(self, key: str, size: int, offset: int) -> Iterator[bytes]:
        """Ranges in order, READ_PARALLEL of them under way; the first are asked for at once."""
        ranges = (
            self._pool.submit(self._read_range, key, start, min(READ_BYTES, size - start))
            for start in range(offset, size, READ_BYTES)
        )
        return _in_order(deque(islice(ranges, READ_PARALLEL)), ranges)

    def _read_range(self, key: str, start: int, length: int) -> bytes:
        def ask() -> bytes:
            with naming_faults(self.address):
                response = self._client.get_object(self._bucket, key, start, length)
            with closing(response):
                data: bytes = response.read()
                response.release_conn()
            if len(data) != length:
                raise ConnectionError(f"{len(data)} of {length} bytes came")
            return data

        with naming_faults(self.address):
            return patiently(ask)


_HEADERS = {"Content-Type": "application/octet-stream"}


class _Check(SideHasher):
    """Hashes a stream on its way."""

    def watch(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.update(chunk)
            yield chunk

    def expect(self, digest: str) -> None:
        found = self.hexdigest()
        if found != digest:
            raise Corrupt(f"the bytes have the digest {found}, not {digest}; read the file again and send it whole")


def _check(digest: str, chunks: Iterable[bytes]) -> None:
    with _Check() as check:
        for chunk in chunks:
            check.update(chunk)
        check.expect(digest)


def _cut(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """A stream as parts of about PART_BYTES; at least one, which may be empty. They grow, so that MAX_PARTS suffice."""
    held: list[bytes] = []
    size = count = 0
    for chunk in chunks:
        for piece in _pieces(chunk):
            held.append(piece)
            size += len(piece)
            if size >= PART_BYTES << (count // 2000):
                yield b"".join(held)
                held, size, count = [], 0, count + 1
    if held or not count:
        yield b"".join(held)


def _pieces(chunk: bytes) -> Iterator[bytes]:
    """A chunk that is larger than a part, in parts."""
    if len(chunk) <= PART_BYTES:
        yield chunk
        return
    view = memoryview(chunk)
    for start in range(0, len(chunk), PART_BYTES):
        yield bytes(view[start : start + PART_BYTES])


def _in_order(coming: deque[Future[bytes]], later: Iterator[Future[bytes]]) -> Iterator[bytes]:
    try:
        while coming:
            data = coming.popleft().result()
            coming.extend(islice(later, 1))
            yield data
    finally:
        for future in coming:
            future.cancel()


def _take(chunks: Iterator[bytes], size: int) -> list[bytes]:
    """The first chunks of a stream, of so many bytes or more; fewer where it ends."""
    taken: list[bytes] = []
    while size > 0 and (chunk := next(chunks, None)) is not None:
        taken.append(chunk)
        size -= len(chunk)
    return taken
