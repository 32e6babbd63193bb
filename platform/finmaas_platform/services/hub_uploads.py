"""Uploads of large files by Git LFS, as Hub clients do them: by addresses that carry their own permission.

Each address holds a grant (`hub_addresses`), which lets nobody read anything. Parts of a large file are blobs of their
own until the last one came; an etag tells which, signed as well, so that nobody can name the blob of another. Nothing
is kept in memory or in a row.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator, Sequence
from math import ceil

from sqlalchemy.orm import Session

from finmaas_core.errors import InvalidInput, NotAllowed
from finmaas_core.quantities import check_digest
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.authentication import authenticate_signed
from finmaas_platform.services.blobs import check_may_put
from finmaas_platform.services.hub_addresses import AddressSigner, Grant
from finmaas_registry.store import BlobStore, Stored

PART_BYTES = 64 << 20
MAX_PARTS = 1_000


class UploadSigner(AddressSigner):
    """Makes and reads grants to upload, and the etags of parts."""

    def __init__(self, pepper: str) -> None:
        super().__init__(pepper, "upload")

    def sign_part(self, grant: Grant, number: int, stored: Stored) -> str:
        """The etag of a part: which blob it is, and that it is one of this upload."""
        return f"{stored.digest}-{stored.size}-{self._mac_part(grant, number, stored)}"

    def read_part(self, grant: Grant, number: int, etag: str) -> Stored:
        """The blob of a part; InvalidInput for an etag that this upload was not given."""
        digest, _, rest = etag.strip('"').partition("-")
        size, _, mac = rest.partition("-")
        if not size.isdigit() or not hmac.compare_digest(
            mac.encode(), self._mac_part(grant, number, Stored(digest, int(size))).encode()
        ):
            raise InvalidInput(f"part {number} has an etag that this upload was not given; send the part again")
        return Stored(check_digest(digest), int(size))

    def _mac_part(self, grant: Grant, number: int, stored: Stored) -> str:
        return self.mac("part", f"{grant.principal_id} {grant.digest} {number} {stored.digest} {stored.size}")


def plan_parts(size: int) -> tuple[int, int]:
    """How a file is sent: (bytes a part, number of parts); one part means in one go."""
    part = max(PART_BYTES, ceil(size / MAX_PARTS))
    return part, max(1, ceil(size / part))


def check_grant(session: Session, grant: Grant) -> Caller:
    """The principal of a grant, if it may put blobs still. Raises NotAuthenticated, NotAllowed."""
    caller = authenticate_signed(session, grant.principal_id)
    if caller.is_frozen:
        raise NotAllowed("your tenant is frozen, so nothing of it can be changed; ask a platform-admin")
    check_may_put(caller)
    return caller


def join_parts(store: BlobStore, grant: Grant, parts: Sequence[Stored]) -> Stored:
    """Stores the file that the parts make. Raises Corrupt, InvalidInput; then nothing is stored."""
    total = sum(part.size for part in parts)
    if total != grant.size:
        raise InvalidInput(f"the parts hold {total} bytes, not {grant.size}; send all of them")
    return store.put_expected(grant.digest, _chain(store, parts))


def check_size(grant: Grant, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The chunks; InvalidInput when there are more or fewer bytes than the grant is for."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > grant.size:
            break
        yield chunk
    if size != grant.size:
        raise InvalidInput(f"{size} bytes came, not {grant.size}; send the file again, whole")


def _chain(store: BlobStore, parts: Iterable[Stored]) -> Iterator[bytes]:
    for part in parts:
        yield from store.open(part.digest)
