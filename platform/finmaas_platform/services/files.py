"""Files of a project, uploaded by API keys through a gateway: the input and output of batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from finmaas_core.errors import Conflict, InvalidInput, NotAuthenticated, NotFound
from finmaas_core.ids import new_id
from finmaas_platform.db.api_keys import ApiKeyRow
from finmaas_platform.db.batches import BatchRow, FileRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.domain.batches import SETTLED
from finmaas_platform.domain.credentials import is_live
from finmaas_platform.domain.principals import Caller, CallerKind
from finmaas_platform.domain.tenants import TenantState
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.blobs import hold_blobs
from finmaas_registry.store import Stored

BATCH_INPUT, BATCH_OUTPUT = "batch", "batch_output"
MAX_NAME = 255
SHORTEST, LONGEST = timedelta(hours=1), timedelta(days=30)


@dataclass(frozen=True)
class KeyCaller:
    """The API key on whose behalf a gateway asks, and the scope it sees."""

    key: ApiKeyRow
    caller: Caller

    @property
    def project_id(self) -> str:
        return self.key.project_id


def find_key_caller(session: Session, key_id: str, now: datetime) -> KeyCaller:
    """The caller behind the key that a gateway has checked. NotAuthenticated when the key has ended meanwhile."""
    row = session.get(ApiKeyRow, key_id)  # unscoped: it makes the caller that others are scoped by
    if row is None or not is_live(row.revoked_at, row.expires_at, now):
        raise NotAuthenticated("the API key is wrong or was revoked; ask the project's owner for a new one")
    tenant = session.get_one(TenantRow, row.tenant_id)  # unscoped: as above
    if tenant.state != TenantState.ACTIVE:
        raise NotAuthenticated("the tenant of this API key is not active; ask its admin")
    return KeyCaller(row, Caller(CallerKind.GATEWAY, row.id, f"API key {row.name}", tenant_id=row.tenant_id))


def check_purpose(purpose: str) -> None:
    """InvalidInput for what files are not used for here."""
    if purpose != BATCH_INPUT:
        raise InvalidInput(
            f"`purpose` {purpose[:40]!r} is not known here; files are the input of batches, so it is `batch`",
            param="purpose",
        )


def choose_file_expiry(now: datetime, anchor: str | None, seconds: str | None) -> datetime | None:
    """When an uploaded file expires (None: never), by the fields `expires_after[…]` (seconds). InvalidInput."""
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidInput("`expires_after[anchor]` must be created_at", param="expires_after[anchor]")
    if seconds is None or not seconds.isascii() or not seconds.isdigit() or len(seconds) > 9:
        raise InvalidInput("`expires_after[seconds]` must be a number", param="expires_after[seconds]")
    after = timedelta(seconds=int(seconds))
    if not SHORTEST <= after <= LONGEST:
        raise InvalidInput("`expires_after[seconds]` must be 3600 to 2592000", param="expires_after[seconds]")
    return now + after


def store_file(
    session: Session,
    owner: KeyCaller,
    now: datetime,
    name: str,
    purpose: str,
    stored: Stored,
    expires_at: datetime | None = None,
) -> FileRow:
    """Notes a file whose bytes lie in the store. InvalidInput for a name that is empty or too long."""
    if not 1 <= len(name) <= MAX_NAME or "\x00" in name:
        raise InvalidInput(f"the file's name must be 1 to {MAX_NAME} characters long", param="file")
    row = FileRow(
        id=new_id("file"),
        tenant_id=owner.key.tenant_id,
        project_id=owner.project_id,
        key_id=owner.key.id,
        name=name,
        purpose=purpose,
        digest=stored.digest,
        size_bytes=stored.size,
        created_at=now,
        expires_at=expires_at,
        deleted_at=None,
    )
    session.add(row)
    hold_blobs(session, now, row.tenant_id, [stored])
    after = {"name": name, "purpose": purpose, "size_bytes": stored.size}
    record_audit(session, owner.caller, now, "file.create", row.id, after=after, tenant_id=row.tenant_id)
    return row


def select_files(owner: KeyCaller, now: datetime, purpose: str | None = None) -> Select[FileRow]:
    """The files of the key's project that are neither deleted nor expired."""
    query = scoped(select(FileRow), owner.caller).where(
        FileRow.project_id == owner.project_id,
        FileRow.deleted_at.is_(None),
        or_(FileRow.expires_at.is_(None), FileRow.expires_at > now),
    )
    return query if purpose is None else query.where(FileRow.purpose == purpose)


def get_file(session: Session, owner: KeyCaller, now: datetime, file_id: str) -> FileRow:
    """A file of the key's project; NotFound for every other."""
    row = session.scalar(select_files(owner, now).where(FileRow.id == file_id))
    if row is None:
        raise NotFound(f"there is no file {file_id[:100]}", param="file_id", openai_code="not_found")
    return row


def delete_file(session: Session, owner: KeyCaller, now: datetime, file_id: str) -> FileRow:
    """Puts a file out of sight. Conflict while a batch still reads it."""
    row = get_file(session, owner, now, file_id)
    busy = scoped(select(BatchRow.id), owner.caller).where(
        BatchRow.input_file_id == row.id, BatchRow.state.not_in(SETTLED)
    )
    batch_id = session.scalar(busy)
    if batch_id is not None:
        raise Conflict(f"{row.id} is read by {batch_id}; cancel it, or wait until it has ended")
    row.deleted_at = now
    record_audit(session, owner.caller, now, "file.delete", row.id, tenant_id=row.tenant_id)
    return row


def show_file(row: FileRow) -> dict[str, Any]:
    """A file as OpenAI's clients read it."""
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.size_bytes,
        "created_at": int(row.created_at.timestamp()),
        "expires_at": None if row.expires_at is None else int(row.expires_at.timestamp()),
        "filename": row.name,
        "purpose": row.purpose,
        "status": "processed",
    }


def count_bytes(chunks: Iterator[bytes], limit: int) -> Iterator[bytes]:
    """The chunks as they are; InvalidInput once they are more than a file may hold."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise InvalidInput(f"the file is larger than {limit:,} bytes, the most that is taken", param="file")
        yield chunk
