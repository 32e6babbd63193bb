"""What gateways keep for auditors: stored as it comes, sealed; opened for one auditor at a time, on record; forgotten.

Reading is a change in the sense of the audit: each leaves an event with its reason. The private key lies in a file
beside the other secrets, so whoever has the database alone reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import Select, delete, select
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from finmaas_core.errors import Corrupt, NotAllowed, NotFound
from finmaas_core.home import Home, make_secret, read_secret
from finmaas_platform.db.archive import ArchiveRecordRow
from finmaas_platform.db.base import insert_missing
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.principals import Caller, Role
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.projects import get_project


def read_archive_key(home: Home) -> X25519PrivateKey:
    """The key that opens what was kept, made at its first use."""
    if not home.archive_key.exists():
        make_secret(home.archive_key, X25519PrivateKey.generate().private_bytes_raw().hex())
    return X25519PrivateKey.from_private_bytes(bytes.fromhex(read_secret(home.archive_key)))


def store_kept(session: Session, records: Iterable[Mapping[str, Any]]) -> None:
    """Stores what a gateway delivers; a record that is there already stays as it is."""
    insert_missing(session, ArchiveRecordRow, [_row_of(record) for record in records])


def select_kept(
    session: Session, caller: Caller, project: str | None = None, request_id: str | None = None
) -> Select[ArchiveRecordRow]:
    """What was kept in the auditor's sight. NotAllowed for every other role, platform-admin included."""
    _require_auditor(caller)
    query = scoped(select(ArchiveRecordRow), caller)
    if project is not None:
        query = query.where(ArchiveRecordRow.project_id == get_project(session, caller, project).id)
    return query if request_id is None else query.where(ArchiveRecordRow.request_id == request_id)


def open_kept(
    session: Session, caller: Caller, key: X25519PrivateKey, now: datetime, kept_id: str, reason: str
) -> bytes:
    """The text of a record, its reading noted in the audit. NotFound; Corrupt when it was changed or moved."""
    from finmaas_serving.gateway.archive import SUITE, binding  # the other half: what is sealed there is opened here

    row = session.scalar(select_kept(session, caller).where(ArchiveRecordRow.id == kept_id))
    if row is None or row.expires_at <= now:
        raise NotFound(f"nothing is kept under {kept_id[:200]}; it may have been forgotten in its time")
    try:
        text = SUITE.decrypt(row.sealed, key, binding(row.id, row.tenant_id, row.project_id))
    except (InvalidTag, ValueError) as error:
        raise Corrupt(f"{row.id} cannot be opened: it was changed, or sealed to another key") from error
    after = {"request_id": row.request_id, "part": row.part, "reason": reason}
    record_audit(session, caller, now, "archive.read", row.id, after=after, tenant_id=row.tenant_id)
    return bytes(text)


def forget_expired(session: Session, now: datetime) -> int:
    """Deletes what was kept long enough; how many records that were."""
    gone = session.execute(delete(ArchiveRecordRow).where(ArchiveRecordRow.expires_at <= now))  # unscoped: of all
    assert isinstance(gone, CursorResult)
    return gone.rowcount


def _require_auditor(caller: Caller) -> None:
    if caller.role is not Role.AUDITOR:
        raise NotAllowed("what was kept is for auditors alone; ask one, or have the role given to you")


def _row_of(record: Mapping[str, Any]) -> dict[str, Any]:
    at = datetime.fromtimestamp(record["at"], UTC)
    return {
        "id": record["kept_id"],
        "part": record["part"],
        "request_id": record["request_id"],
        "tenant_id": record["tenant_id"],
        "project_id": record["project_id"],
        "key_id": record["key_id"],
        "endpoint_id": record["endpoint_id"],
        "at": at,
        "expires_at": at + timedelta(days=record["days"]),
        "sealed": record["sealed"],
    }
