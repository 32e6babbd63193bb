"""The numbered snapshot that gateways live from: keys, routes, grants."""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from finmaas_platform.db.snapshots import SnapshotCounterRow

COUNTER_ID = 1


def bump_snapshot(session: Session) -> None:
    """Raises the snapshot's number; call it in every transaction that changes keys, grants, endpoints or tenants.

    The row lock makes such transactions commit one after the other, so a number never hides an earlier change.
    """
    raise_it = update(SnapshotCounterRow).values(number=SnapshotCounterRow.number + 1)
    raised = session.execute(raise_it.where(SnapshotCounterRow.id == COUNTER_ID))
    if raised.rowcount == 0:  # type: ignore[attr-defined]
        session.add(SnapshotCounterRow(id=COUNTER_ID, number=1))
        session.flush()


def find_snapshot_number(session: Session) -> int:
    """The present number; 0 before the first change."""
    return session.scalar(select(SnapshotCounterRow.number).where(SnapshotCounterRow.id == COUNTER_ID)) or 0
