"""What the ledger may forget, by a stated rule: who held what of a window, never what was spent of it.

Slices go 35 days after their window has ended, once nothing of it is outstanding; the window stays, as one row with
what was settled. A usage record that is delivered later still is stored like any other, but no window counts it any
more. Windows without an end (a minute's, concurrency) are one row each and stay as they are.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from finmaas_platform.db.ledger import LedgerSliceRow, LedgerWindowRow

SLICES_LIVE = timedelta(days=35)
MAX_ROWS = 2000
"""In one transaction, so that no gateway waits long for its windows."""


def clean_ledger(session: Session, now: datetime) -> int:
    """Removes slices that may go, `MAX_ROWS` at most; returns how many."""
    old = (
        select(LedgerSliceRow.id)
        .join(LedgerWindowRow, LedgerSliceRow.window_id == LedgerWindowRow.id)
        .where(
            LedgerWindowRow.outstanding == 0,
            LedgerWindowRow.ends_at > 0,  # not a standing one
            LedgerWindowRow.ends_at < (now - SLICES_LIVE).timestamp(),
        )
    )
    slices = session.scalars(old.order_by(LedgerSliceRow.id).limit(MAX_ROWS)).all()
    session.execute(delete(LedgerSliceRow).where(LedgerSliceRow.id.in_(slices)))
    return len(slices)
