"""What uploads and garbage collection agree on: a blob that was touched within the grace period is not collected.

Touching a blob that is being removed fails: its bytes may be gone the next moment. The uploader tries again, and by
then the blob is simply missing. See docs/adr/0010-garbage-collection.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice

from sqlalchemy import Dialect, select, update
from sqlalchemy.dialects.postgresql import insert as insert_postgres
from sqlalchemy.dialects.sqlite import insert as insert_sqlite
from sqlalchemy.orm import Session

from finmaas_core.errors import InvalidInput, Unavailable
from finmaas_platform.db.blobs import BlobRecipeRow, BlobTouchRow

BATCH = 500
"""Digests in one statement."""
FRESH = timedelta(minutes=10)
"""A blob touched so lately is not touched again by those who only ask for it."""


def touch(session: Session, now: datetime, digests: Iterable[str]) -> None:
    """Notes that blobs are wanted, whether or not they are in the store. Unavailable while one is being removed."""
    for batch in batches(_with_blocks(session, digests)):
        statement = _insert(session.get_bind().dialect, [_row(digest, now) for digest in batch])
        session.execute(statement)
        _refuse_deleting(session, batch)


def touch_stored(session: Session, now: datetime, digests: Iterable[str]) -> None:
    """The same for blobs that must be in the store already; InvalidInput for one that was collected."""
    for batch in batches(_with_blocks(session, digests)):
        rows = BlobTouchRow.digest.in_(batch)
        statement = update(BlobTouchRow).where(rows, BlobTouchRow.deleting.is_(False)).values(touched_at=now)
        session.execute(statement.execution_options(synchronize_session=False))
        _refuse_deleting(session, batch)
        found = set(session.scalars(select(BlobTouchRow.digest).where(rows)))
        if gone := [digest for digest in batch if digest not in found]:
            raise InvalidInput(f"the bytes of blob {gone[0]} are not in the store (any more); send them again")


def find_stale(session: Session, now: datetime, digests: Iterable[str]) -> list[str]:
    """Those that were not touched lately, or never."""
    fresh: set[str] = set()
    wanted = sorted(set(digests))
    for batch in batches(wanted):
        query = select(BlobTouchRow.digest).where(
            BlobTouchRow.digest.in_(batch), BlobTouchRow.touched_at > now - FRESH, BlobTouchRow.deleting.is_(False)
        )
        fresh.update(session.scalars(query))
    return [digest for digest in wanted if digest not in fresh]


def batches(digests: Iterable[str]) -> Iterator[list[str]]:
    """Distinct digests in their order, BATCH at a time: rows are locked in one order, so none waits in a ring."""
    ordered = iter(sorted(set(digests)))
    while batch := list(islice(ordered, BATCH)):
        yield batch


def _with_blocks(session: Session, digests: Iterable[str]) -> set[str]:
    """With the blocks of files that lie as blocks: whoever wants such a file wants them."""
    wanted = set(digests)
    for batch in batches(set(wanted)):
        for blocks in session.scalars(select(BlobRecipeRow.blocks).where(BlobRecipeRow.digest.in_(batch))):
            wanted.update(digest for digest, _ in blocks)
    return wanted


def _row(digest: str, now: datetime) -> dict[str, object]:
    return {"digest": digest, "touched_at": now, "deleting": False}


def _insert(dialect: Dialect, rows: Sequence[dict[str, object]]) -> insert_sqlite | insert_postgres:  # type: ignore[valid-type]
    insert = insert_postgres if dialect.name == "postgresql" else insert_sqlite
    statement = insert(BlobTouchRow).values(rows)
    return statement.on_conflict_do_update(
        index_elements=["digest"],
        set_={"touched_at": statement.excluded.touched_at},
        where=BlobTouchRow.deleting.is_(False),
    )


def _refuse_deleting(session: Session, batch: Sequence[str]) -> None:
    query = select(BlobTouchRow.digest).where(BlobTouchRow.digest.in_(batch), BlobTouchRow.deleting.is_(True))
    if found := session.scalars(query).first():
        raise Unavailable(f"the blob {found} is being removed as garbage; try again in a moment")
