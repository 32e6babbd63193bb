"""Garbage collection of blobs: what nothing names, and nobody has asked for within the grace period, is removed.

Safe beside uploads and other collections, and when killed at any step:

1. blobs of the store that no row knows get a row, so their grace period begins now;
2. one transaction marks blobs as being removed, having looked that nothing names them, and takes them out of sight;
   from then on `touch` refuses them;
3. their bytes are removed; 4. then their mark is.

A collection that was killed between 2 and 4 is finished by the next: what is marked can be in nobody's use. One
collection runs at a time, by a lease. See docs/adr/0010-garbage-collection.md.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Select, delete, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from finmaas_core.errors import Conflict, InvalidInput
from finmaas_core.telemetry import get_logger
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.db.batches import FileRow
from finmaas_platform.db.blobs import BlobRecipeRow, BlobRow, BlobTouchRow, JobBlobRow, VersionBlobRow
from finmaas_platform.db.datasets import DatasetReportRow
from finmaas_platform.db.jobs import JobRow
from finmaas_platform.db.leases import SharedWorkRow, ensure_shared_work
from finmaas_platform.db.locks import BlobLockRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.principals import Caller, Role
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.blob_touches import batches, touch
from finmaas_platform.services.locks import find_held, keep_end

GRACE = timedelta(days=1)
MIN_GRACE = timedelta(hours=1)
"""Longer than an upload may go without touching what it was told is there."""
LEASE_S = 120.0
RENEW_AFTER_S = 30.0
REMOVED_AT_ONCE = 100
_WORK = "collection"
log = get_logger()


@dataclass
class Collection:
    """What a collection found, and removed unless it was a dry run."""

    dry_run: bool
    blobs: int = 0
    named: int = 0
    waiting: int = 0
    held: int = 0
    """Garbage that the bucket keeps locked, the last of it until `held_until`."""
    held_until: datetime | None = None
    removed: int = 0
    removed_bytes: int = 0
    examples: list[str] = field(default_factory=list)

    def hold(self, until: datetime) -> None:
        """Counts a locked blob."""
        self.held += 1
        self.held_until = until if self.held_until is None else max(until, self.held_until)


def collect(deps: Deps, caller: Caller, *, dry_run: bool, grace: timedelta = GRACE) -> Collection:
    """Runs a collection; platform-admins only. Conflict while another runs, InvalidInput for a short grace."""
    caller.require(Role.PLATFORM_ADMIN)
    if grace < MIN_GRACE:
        raise InvalidInput(f"the grace period must be {MIN_GRACE} or more: an upload under way needs it")
    found = Collection(dry_run)
    for _ in collect_steps(deps, found, grace):
        pass
    if not dry_run:
        with unit_of_work(deps.sessions) as session:
            after = {"removed": found.removed, "bytes": found.removed_bytes}
            record_audit(session, caller, deps.clock.now(), "blobs.collect", "store", after=after)
    return found


def collect_steps(deps: Deps, found: Collection, grace: timedelta) -> Iterator[str]:
    """The same step by step, so that tests can stop it, or do something else, between any two."""
    if found.dry_run:
        with read_unit(deps.sessions) as session:
            garbage = _examine(session, deps, found, deps.clock.now() - grace)
            found.removed, found.removed_bytes = len(garbage), sum(garbage.values())
            found.examples = sorted(garbage)[:10]
        yield "examined"
        return
    lease = _Lease(deps)
    try:
        yield "leased"
        for batch in batches([*deps.store.list()]):
            _adopt(deps, batch)
        yield "adopted"
        yield from _remove_marked(deps, lease, found)  # what a killed collection left
        cutoff = deps.clock.now() - grace
        with read_unit(deps.sessions) as session:
            garbage = _examine(session, deps, found, cutoff)
        yield "examined"
        for batch in batches(garbage):
            with unit_of_work(deps.sessions) as session:
                marked = _mark(session, batch, cutoff, deps.clock.now())
            yield "marked"
            kept = yield from _remove_marked(deps, lease, found)
            gone = [digest for digest in marked if digest not in kept]
            found.removed += len(gone)
            found.removed_bytes += sum(garbage[digest] for digest in gone)
            found.examples = (found.examples + gone)[:10]
    finally:
        lease.release()


def _adopt(deps: Deps, digests: list[str]) -> None:
    """Blobs that no row knows (put, but never recorded) are waited for from now on."""
    with read_unit(deps.sessions) as session:
        known = set(session.scalars(select(BlobTouchRow.digest).where(BlobTouchRow.digest.in_(digests))))
    if unknown := [digest for digest in digests if digest not in known]:
        with unit_of_work(deps.sessions) as session:
            touch(session, deps.clock.now(), unknown)


def _examine(session: Session, deps: Deps, found: Collection, cutoff: datetime) -> dict[str, int]:
    """Sizes of the garbage by digest. A blob of unknown size counts nothing until it is gone."""
    named = find_named(session, cutoff)
    locked = find_held(session, deps.clock.now())
    sizes: dict[str, int] = {}
    for digest, touched_at in session.execute(select(BlobTouchRow.digest, BlobTouchRow.touched_at)):
        found.blobs += 1
        if digest in named:
            found.named += 1
        elif touched_at >= cutoff:
            found.waiting += 1
        elif digest in locked:
            found.hold(locked[digest])
        else:
            sizes[digest] = 0
    for batch in batches(sizes):
        held = BlobRow.digest.in_(batch)
        query = select(BlobRow.digest, BlobRow.size_bytes).where(held)  # unscoped: garbage is nobody's
        sizes.update((digest, size) for digest, size in session.execute(query))
    composed = set(session.scalars(select(BlobRecipeRow.digest)))
    return {digest: 0 if digest in composed else size for digest, size in sizes.items()}


def find_named(session: Session, cutoff: datetime) -> set[str]:
    """Every digest that something names, with the blocks of files that lie as blocks."""
    named: set[str] = set()
    for query in roots(cutoff):
        named.update(session.scalars(query))
    for row in session.scalars(select(BlobRecipeRow)):
        if row.digest in named:
            named.update(digest for digest, _ in row.blocks)
    return named


def roots(cutoff: datetime) -> list[Select[str]]:
    """What names blobs. A new column that holds a blob's digest belongs here; a test looks for it.

    Whoever adds such a name touches the blob in the same transaction, or has put it just before.
    """
    ended = select(JobRow.id).where(JobRow.finished_at < cutoff)  # unscoped: collection is the platform's
    return [
        select(VersionBlobRow.digest),  # unscoped: versions of datasets and models, and drafts
        select(JobBlobRow.digest).where(JobBlobRow.job_id.not_in(ended)),  # unscoped: of jobs that may go on
        select(FileRow.digest).where(FileRow.deleted_at.is_(None)),  # unscoped: files of the gateway's clients
        select(DatasetReportRow.index_digest),  # unscoped: the index of a version's rows
    ]


def _mark(session: Session, batch: list[str], cutoff: datetime, now: datetime) -> list[str]:
    """Marks what is garbage still, and takes it out of everyone's sight. Those touched or locked meanwhile stay."""
    named = {found for query in roots(cutoff) for found in session.scalars(_within(query, batch))}
    named |= find_held(session, now, batch).keys()
    rest = [digest for digest in batch if digest not in named]
    free = (BlobTouchRow.digest.in_(rest), BlobTouchRow.touched_at < cutoff, BlobTouchRow.deleting.is_(False))
    statement = update(BlobTouchRow).where(*free).values(deleting=True)
    session.execute(statement.execution_options(synchronize_session=False))
    query = select(BlobTouchRow.digest).where(BlobTouchRow.digest.in_(rest), BlobTouchRow.deleting.is_(True))
    gone = sorted(session.scalars(query))
    for table in (BlobRow, JobBlobRow, BlobRecipeRow, BlobLockRow):
        rows = delete(table).where(table.digest.in_(gone))
        session.execute(rows.execution_options(synchronize_session=False))
    return gone


def _within(query: Select[str], batch: list[str]) -> Select[str]:
    (column,) = query.selected_columns
    return query.where(column.in_(batch))


def _remove_marked(deps: Deps, lease: _Lease, found: Collection) -> Generator[str, None, set[str]]:
    """Removes the bytes of what is marked; returns what the bucket keeps locked."""
    kept: set[str] = set()
    while True:
        with read_unit(deps.sessions) as session:
            query = select(BlobTouchRow.digest).where(BlobTouchRow.deleting.is_(True)).limit(REMOVED_AT_ONCE)
            marked = sorted(session.scalars(query))
        if not marked:
            return kept
        for digest in marked:
            lease.renew()
            until = deps.store.delete(digest)
            if until is not None:
                kept.add(digest)
                found.hold(until)
                _note_lock(deps, digest, until)
            yield "removed"
        with unit_of_work(deps.sessions) as session:
            rows = delete(BlobTouchRow).where(BlobTouchRow.digest.in_(marked), BlobTouchRow.deleting.is_(True))
            session.execute(rows.execution_options(synchronize_session=False))
        yield "forgotten"


def _note_lock(deps: Deps, digest: str, until: datetime) -> None:
    """The bucket keeps a blob locked of which no row told (the database came from a backup): now one does."""
    with unit_of_work(deps.sessions) as session:
        keep_end(session, digest, until)
        row = update(BlobTouchRow).where(BlobTouchRow.digest == digest).values(deleting=False)
        session.execute(row.execution_options(synchronize_session=False))


class _Lease:
    """One collection at a time. Renewed before each removal, so that a late one does not remove what is used anew."""

    def __init__(self, deps: Deps, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._deps = deps
        self._monotonic = monotonic
        self._token = secrets.token_hex(16)
        now = deps.clock.now()
        with unit_of_work(deps.sessions) as session:
            ensure_shared_work(session, _WORK, now)
            self._update(session, (SharedWorkRow.lease_token.is_(None)) | (SharedWorkRow.lease_expires_at < now))
        self._renewed = monotonic()

    def renew(self) -> None:
        """Conflict once another collection has taken over."""
        if self._monotonic() - self._renewed < RENEW_AFTER_S:
            return
        with unit_of_work(self._deps.sessions) as session:
            self._update(session, SharedWorkRow.lease_token == self._token)
        self._renewed = self._monotonic()

    def release(self) -> None:
        """Lets the next one begin."""
        mine = (SharedWorkRow.id == _WORK) & (SharedWorkRow.lease_token == self._token)
        with unit_of_work(self._deps.sessions) as session:
            session.execute(update(SharedWorkRow).where(mine).values(lease_token=None, lease_expires_at=None))

    def _update(self, session: Session, free: object) -> None:
        until = self._deps.clock.now() + timedelta(seconds=LEASE_S)
        rows = update(SharedWorkRow).where(SharedWorkRow.id == _WORK, free)  # type: ignore[arg-type]
        result = session.execute(rows.values(lease_token=self._token, lease_expires_at=until, due_at=None))
        assert isinstance(result, CursorResult)
        if result.rowcount != 1:
            raise Conflict("a garbage collection is running already; wait for its end")
