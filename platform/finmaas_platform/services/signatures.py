"""Signatures of approved versions: making them, finding them, and whether rows and bytes are what was signed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from finmaas_core.errors import BadSignature, FinmaasError, InvalidInput, NotFound
from finmaas_core.settings import Settings
from finmaas_platform.db.approvals import ModelSignatureRow
from finmaas_platform.db.models import ModelVersionRow
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.blobs import to_entries
from finmaas_registry.keys import FileSigningKey, SigningKeyRing
from finmaas_registry.manifest import FileEntry, make_manifest
from finmaas_registry.signing import Signed, TrustRoot, read_trust_root, verify_version
from finmaas_registry.store import BlobStore


@dataclass(frozen=True)
class Check:
    """What a look at a version found; `faults` is empty where all holds. `key_id` is that of the key that signed it."""

    ref: str
    digest: str
    files: int
    signed: bool
    key_id: str | None
    own_root: bool
    faults: tuple[str, ...]


def open_signing_key(settings: Settings) -> SigningKeyRing:
    """The key that approvals sign with; made at its first use."""
    path = settings.signing_key or settings.paths.secrets / "signing.key"
    return FileSigningKey(path, settings.signing_key_passphrase.get_secret_value())


def find_trust_root(settings: Settings) -> TrustRoot:
    """The trust root that was configured; without one the installation trusts its own key."""
    if settings.trust_root is not None:
        return read_trust_root(settings.trust_root)
    return TrustRoot.of(open_signing_key(settings).public_key())


def find_bundle(session: Session, version_id: str) -> str | None:
    """The signature of a version that was found in scope."""
    query = select(ModelSignatureRow.bundle)  # unscoped: of a version that was found in scope
    return session.scalar(query.where(ModelSignatureRow.version_id == version_id))


def get_bundle(session: Session, version: ModelVersionRow) -> str:
    """The signature; NotFound for a version that was not approved."""
    if bundle := find_bundle(session, version.id):
        return bundle
    raise NotFound(f"{version.ref} bears no signature; approval makes one: finmaas model approve {version.ref}")


def store_signature(session: Session, caller: Caller, now: datetime, version: ModelVersionRow, signed: Signed) -> None:
    """Keeps the signature beside the version."""
    session.add(
        ModelSignatureRow(
            version_id=version.id,
            tenant_id=version.tenant_id,
            bundle=signed.bundle,
            key_id=signed.key_id,
            signed_at=now,
            signed_by=caller.name,
        )
    )


def holds(session: Session, trust: TrustRoot, version: ModelVersionRow) -> bool:
    """Whether a version bears a signature that holds."""
    try:
        verify_version(find_bundle(session, version.id), trust, version.ref, to_entries(version.files))
    except BadSignature:
        return False
    return True


def check_version_bytes(
    store: BlobStore,
    ref: str,
    digest: str,
    files: Sequence[Mapping[str, Any]],
    bundle: str | None,
    trust: TrustRoot,
    own_root: bool,
) -> Check:
    """Reads every byte of a version anew, and compares row, bytes and signature. Opens no database session."""
    faults: list[str] = []
    entries = to_entries(files)
    faults.extend(_check_row(ref, digest, entries))
    faults.extend(_check_bytes(store, entries))
    key_id = None
    if bundle is not None:
        try:
            key_id = verify_version(bundle, trust, ref, entries)
        except BadSignature as error:
            faults.append(error.message)
    return Check(ref, digest, len(entries), bundle is not None, key_id, own_root, tuple(faults))


def _check_row(ref: str, digest: str, entries: Sequence[FileEntry]) -> Iterable[str]:
    try:
        found = make_manifest(entries).digest
    except InvalidInput as error:
        return [f"the list of files of {ref} cannot be used: {error.message}"]
    return [] if found == digest else [f"the list of files of {ref} has the digest {found}, not {digest}"]


def _check_bytes(store: BlobStore, entries: Sequence[FileEntry]) -> Iterable[str]:
    for file in entries:
        sha256 = hashlib.sha256()
        try:
            for chunk in store.open(file.sha256):
                sha256.update(chunk)
        except FinmaasError as error:
            yield f"{file.path} cannot be read: {error.message}"
            continue
        if sha256.hexdigest() != file.sha256:
            yield f"{file.path} holds other bytes than its digest says; bring the blob back from a backup"
