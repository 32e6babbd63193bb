"""Object locks of released versions: a row asks for them in the transaction of the approval, a reconciler sets them.

Rounds: every file of a version, by digest, is locked until one day; half of the time before that day the next round
moves it on, as long as the version stays approved or released. What locks a bucket cannot be taken back by anybody, so
the rows here only remember it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert as insert_postgres
from sqlalchemy.dialects.sqlite import insert as insert_sqlite
from sqlalchemy.orm import Session

from finmaas_platform.db.blobs import BlobRecipeRow, VersionBlobRow
from finmaas_platform.db.datasets import DatasetVersionRow
from finmaas_platform.db.leases import update_leased, wake_after_commit
from finmaas_platform.db.locks import BlobLockRow, VersionLockRow
from finmaas_platform.db.models import ModelVersionRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.dataset_versions import RELEASED
from finmaas_platform.domain.model_versions import VersionState
from finmaas_platform.services.audit import SYSTEM, record_audit
from finmaas_platform.services.blob_touches import batches

WAKES = "locks"
PENDING, LOCKED, UNSUPPORTED = "pending", "locked", "unsupported"
FILES_AT_ONCE = 50
RETRY = timedelta(seconds=60)
VersionRow = ModelVersionRow | DatasetVersionRow


@dataclass(frozen=True)
class LockStep:
    """Some blobs of a version to lock now, each with its end; `last` is the digest of the last file among them."""

    row: VersionLockRow
    token: str
    until: datetime
    ends: Mapping[str, datetime]
    last: str | None
    is_end: bool


def lock_days(deps: Deps, kind: str) -> int:
    """For how many days versions of a kind are locked; 0 where the store locks nothing."""
    days = deps.settings.lock_model_days if kind == "model" else deps.settings.lock_dataset_days
    return days if deps.store.can_lock else 0


def ask_for_lock(session: Session, now: datetime, kind: str, version: VersionRow, days: int) -> None:
    """Notes in the caller's transaction that a version is to be locked. Safe to repeat."""
    if days and session.get(VersionLockRow, version.id) is None:  # unscoped: of a version that is being moved
        session.add(VersionLockRow(id=version.id, tenant_id=version.tenant_id, kind=kind, due_at=now))
        wake_after_commit(session, WAKES)


def ask_for_missing_locks(session: Session, deps: Deps) -> None:
    """The same for versions that were released before there were locks, and anew where there was no object lock."""
    now = deps.clock.now()
    asked = select(VersionLockRow.id)  # unscoped: of every tenant
    models = select(ModelVersionRow).where(  # unscoped: of every tenant
        ModelVersionRow.state == VersionState.APPROVED, ModelVersionRow.id.not_in(asked)
    )
    datasets = select(DatasetVersionRow).where(  # unscoped: of every tenant
        DatasetVersionRow.state == RELEASED, DatasetVersionRow.id.not_in(asked)
    )
    for kind, rows in (("model", session.scalars(models)), ("dataset", session.scalars(datasets))):
        for row in rows:
            ask_for_lock(session, now, kind, row, lock_days(deps, kind))
    again = update(VersionLockRow).values(due_at=now).where(VersionLockRow.state == UNSUPPORTED)  # unscoped: of all
    session.execute(again.execution_options(synchronize_session=False))


def plan_end(until: datetime | None, now: datetime, days: int) -> datetime:
    """The end of a new round: never before that of the last one. Whole seconds, as buckets keep them."""
    end = (now + timedelta(days=days)).replace(microsecond=0)
    return end if until is None else max(end, until)


def begin_step(session: Session, row: VersionLockRow, now: datetime, days: int) -> LockStep | None:
    """What is to be locked next of a claimed row; None, and the row is at rest, where its version is not released."""
    assert row.lease_token is not None
    if not days or not _is_released(session, row):
        row.due_at = row.lease_token = row.lease_expires_at = None
        return None
    if row.done is None:
        row.until = plan_end(row.until, now, days)
    assert row.until is not None
    query = select(VersionBlobRow.digest).where(  # unscoped: of a version whose lock was claimed
        VersionBlobRow.version_id == row.id, VersionBlobRow.digest > (row.done or "")
    )
    files = [*session.scalars(query.order_by(VersionBlobRow.digest).limit(FILES_AT_ONCE))]
    ends = _find_ends(session, _to_blocks(session, files), row.until)
    last = files[-1] if files else None
    return LockStep(row, row.lease_token, row.until, ends, last, len(files) < FILES_AT_ONCE)


def finish_step(session: Session, deps: Deps, step: LockStep, supported: bool) -> None:
    """Notes what was locked; at the end of a round on the version too, with an audit event. A stale lease drops it."""
    now, row = deps.clock.now(), step.row
    if not supported:
        if update_leased(session, row, step.token, {"state": UNSUPPORTED, "done": None, "due_at": None, "fault": ""}):
            _tell(session, now, row, UNSUPPORTED, None)
        return
    _keep_ends(session, step.ends)
    if not step.is_end:
        update_leased(session, row, step.token, {"done": step.last, "due_at": now, "fault": ""})
        return
    again = now + (step.until - now) / 2
    if update_leased(session, row, step.token, {"state": LOCKED, "done": None, "due_at": again, "fault": ""}):
        version = _find_version(session, row)
        if version is not None:
            version.locked_until = step.until
        _tell(session, now, row, LOCKED, step.until)


def put_off_step(session: Session, now: datetime, step: LockStep, fault: str) -> None:
    """The store did not answer: the same step is taken again later."""
    update_leased(session, step.row, step.token, {"due_at": now + RETRY, "fault": fault[:2000]})


def find_held(session: Session, now: datetime, digests: Iterable[str] | None = None) -> dict[str, datetime]:
    """Blobs that are locked still, with the end of each; of all, or of some."""
    query = select(BlobLockRow.digest, BlobLockRow.until).where(BlobLockRow.until > now)
    held: dict[str, datetime] = {}
    if digests is None:
        held.update((digest, until) for digest, until in session.execute(query))
        return held
    for batch in batches(digests):
        held.update((digest, until) for digest, until in session.execute(query.where(BlobLockRow.digest.in_(batch))))
    return held


def keep_end(session: Session, digest: str, until: datetime) -> None:
    """Notes a lock that the store told of."""
    _keep_ends(session, {digest: until})


def _tell(session: Session, now: datetime, row: VersionLockRow, state: str, until: datetime | None) -> None:
    """Once a round; that a bucket has no object lock, once."""
    if state == row.state == UNSUPPORTED:
        return
    after = {"state": state, "until": None if until is None else until.isoformat()}
    if state == UNSUPPORTED:
        after["why"] = "the bucket has no object lock; only a new bucket can have it"
    record_audit(session, SYSTEM, now, f"{row.kind}_version.lock", row.id, None, after, tenant_id=row.tenant_id)


def _is_released(session: Session, row: VersionLockRow) -> bool:
    version = _find_version(session, row)
    return version is not None and version.state in (VersionState.APPROVED, RELEASED)


def _find_version(session: Session, row: VersionLockRow) -> VersionRow | None:
    if row.kind == "model":
        return session.get(ModelVersionRow, row.id)  # unscoped: of a lock that was claimed
    return session.get(DatasetVersionRow, row.id)  # unscoped: of a lock that was claimed


def _to_blocks(session: Session, files: Sequence[str]) -> list[str]:
    """What lies in the store of these files: each whole, or its blocks."""
    made = {row.digest: row for row in session.scalars(select(BlobRecipeRow).where(BlobRecipeRow.digest.in_(files)))}
    blobs = {digest for digest in files if digest not in made}
    for row in made.values():
        blobs.update(digest for digest, _ in row.blocks)
    return sorted(blobs)


def _find_ends(session: Session, blobs: Sequence[str], until: datetime) -> dict[str, datetime]:
    """A blob that another version keeps longer stays so: no bucket takes an earlier end."""
    held = find_held(session, until, blobs)
    return {digest: held.get(digest, until) for digest in blobs}


def _keep_ends(session: Session, ends: Mapping[str, datetime]) -> None:
    insert = insert_postgres if session.get_bind().dialect.name == "postgresql" else insert_sqlite
    for batch in batches(ends):
        statement = insert(BlobLockRow).values([{"digest": digest, "until": ends[digest]} for digest in batch])
        later = statement.on_conflict_do_update(
            index_elements=["digest"],
            set_={"until": statement.excluded.until},
            where=BlobLockRow.until < statement.excluded.until,
        )
        session.execute(later)
