"""Claims of provenance: taken with the usage they belong to, sealed in signed batches, proven to whoever holds one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from finmaas_core.errors import EnvironmentFault
from finmaas_core.home import Home, read_secret, write_secret
from finmaas_platform.db.base import insert_missing
from finmaas_platform.db.provenance import ProvenanceBatchRow, ProvenanceClaimRow
from finmaas_platform.domain.provenance import FIRST, Batch, BatchProof, claim_digest, merkle_path, seal_batch

MAX_CLAIMS = 10_000
"""Claims of one batch."""


def read_signing_key(home: Home) -> Ed25519PrivateKey:
    """The key that signs batches, made at its first use. EnvironmentFault when its file holds another kind."""
    if not home.provenance_key.exists():
        private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        fresh = Ed25519PrivateKey.generate().private_bytes(serialization.Encoding.PEM, *private)
        write_secret(home.provenance_key, fresh.decode())
    key = serialization.load_pem_private_key(read_secret(home.provenance_key).encode(), None)
    if not isinstance(key, Ed25519PrivateKey):
        raise EnvironmentFault(f"{home.provenance_key} holds no Ed25519 key; bring it back from a backup")
    return key


def show_public_key(key: Ed25519PrivateKey) -> str:
    """The public half as PEM."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def store_claims(session: Session, records: Iterable[Mapping[str, Any]]) -> None:
    """Notes the claims that came with usage records; one that is known already stays as it is."""
    values = [
        {"digest": digest, "tenant_id": record["tenant_id"], "request_id": record["request_id"], "at": record["at"]}
        for record in records
        for digest in record.get("claims") or ()
    ]
    insert_missing(session, ProvenanceClaimRow, values)


def seal_claims(session: Session, key: Ed25519PrivateKey, now: datetime) -> int:
    """Seals what waits as one batch, in the session's transaction; the number of claims in it (0: nothing waits).

    Two at once cannot both commit: the batch's number is taken by the first.
    """
    waiting = (
        select(ProvenanceClaimRow.digest)  # unscoped: a batch is over all tenants, and tells none of them
        .where(ProvenanceClaimRow.batch.is_(None))
        .order_by(ProvenanceClaimRow.at, ProvenanceClaimRow.digest)
        .limit(MAX_CLAIMS)
    )
    digests = list(session.scalars(waiting))
    if not digests:
        return 0
    last = session.scalar(select(ProvenanceBatchRow).order_by(ProvenanceBatchRow.number.desc()).limit(1))
    previous = FIRST if last is None else show_batch(last).digest
    batch, signature = seal_batch(key, 1 if last is None else last.number + 1, digests, previous, now.isoformat())
    session.add(ProvenanceBatchRow(**vars(batch), signature=signature))
    session.flush()
    places = [{"digest": digest, "batch": batch.number, "place": place} for place, digest in enumerate(digests)]
    session.execute(update(ProvenanceClaimRow), places)  # unscoped: as above
    return len(digests)


def find_proof(session: Session, claim: Mapping[str, Any]) -> BatchProof | None:
    """The proof of a claim whose seal was checked; None while its batch is not sealed yet."""
    found = session.get(ProvenanceClaimRow, claim_digest(claim))  # unscoped: who holds a claim may prove it
    if found is None or found.batch is None or found.place is None:
        return None
    batch = session.get_one(ProvenanceBatchRow, found.batch)
    leaves = (
        select(ProvenanceClaimRow.digest)  # unscoped: digests of others are the tree; they tell nothing
        .where(ProvenanceClaimRow.batch == found.batch)
        .order_by(ProvenanceClaimRow.place)
    )
    path = merkle_path(list(session.scalars(leaves)), found.place)
    return BatchProof(show_batch(batch), batch.signature, found.place, path)


def show_batch(row: ProvenanceBatchRow) -> Batch:
    """The row as it is signed."""
    return Batch(row.number, row.root, row.count, row.previous, row.sealed_at)
