"""Leases: how reconcilers of several control planes share rows and do nothing twice. Claiming is written once, here.

A claim writes a fresh token into the row. Whoever applies a plan updates `WHERE id AND lease_token`: zero rows mean
that the lease was broken, by another control plane after it expired, or by a request that changed the object
meanwhile (`break_lease`); then the plan is dropped.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Engine, event, or_, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Mapped, Session, mapped_column

from finmaas_platform.db.base import Base, SessionFactory

LEASE_S = 60.0
"""Longer than the slowest usual call to a cluster; one that takes longer still is idempotent."""


class Leased:
    """Columns of a row that reconcilers claim; `due_at` is when it wants to be looked at next (None: never again)."""

    id: Mapped[str] = mapped_column(primary_key=True)
    lease_token: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    due_at: Mapped[datetime | None] = mapped_column(index=True)


class SharedWorkRow(Leased, Base):
    """Work that one control plane at a time does for all objects of a kind: "admission", "serve"."""

    __tablename__ = "shared_work"

    note: Mapped[dict[str, Any]]
    """What the last one to do it wants the next one to know."""


LeasedRow = TypeVar("LeasedRow", bound=Leased)


def claim(
    session: Session, row: type[LeasedRow], now: datetime, *where: ColumnElement[bool], limit: int = 50
) -> Sequence[LeasedRow]:
    """Leases the rows that are due and free, longest waiting first; rows that another one is claiming are skipped."""
    free = or_(row.lease_token.is_(None), row.lease_expires_at < now)
    query = select(row).where(row.due_at <= now, free, *where).order_by(row.due_at, row.id).limit(limit)
    claimed = session.scalars(query.with_for_update(skip_locked=True)).all()
    for one in claimed:
        one.lease_token = secrets.token_hex(16)
        one.lease_expires_at = now + timedelta(seconds=LEASE_S)
    session.flush()
    return claimed


def update_leased(session: Session, row: LeasedRow, token: str, values: dict[str, Any]) -> bool:
    """Updates a row `WHERE id AND lease_token`, and releases it. False: the lease is stale; drop what was planned."""
    kind = type(row)
    result = session.execute(
        update(kind)
        .where(kind.id == row.id, kind.lease_token == token)
        .values({**values, "lease_token": None, "lease_expires_at": None})
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    return result.rowcount == 1


def break_lease(row: Leased, now: datetime) -> None:
    """For requests that change a leased row: what a reconciler plans for it meanwhile is dropped, and planned anew."""
    row.lease_token = None
    row.lease_expires_at = None
    row.due_at = now


def ensure_shared_work(session: Session, name: str, now: datetime) -> None:
    """Makes the row of a shared work, once per database."""
    if session.get(SharedWorkRow, name) is None:
        session.add(SharedWorkRow(id=name, lease_token=None, lease_expires_at=None, due_at=now, note={}))
        session.flush()


def release_all(session: Session, row: type[Leased], now: datetime) -> None:
    """Frees every lease. Only where this is the one control plane (SQLite): it was killed, and its leases with it."""
    session.execute(
        update(row)
        .where(row.lease_token.is_not(None))
        .values(lease_token=None, lease_expires_at=None, due_at=now)
        .execution_options(synchronize_session=False)
    )


def is_only_control_plane(sessions: SessionFactory) -> bool:
    """Whether no other control plane can share this database: SQLite lies on one machine and has one."""
    engine = sessions.kw["bind"]
    assert isinstance(engine, Engine)
    return engine.dialect.name == "sqlite"


# --- waking ----------------------------------------------------------------------------------------------------

_WAKES = "reconcilers_to_wake"


def wake_after_commit(session: Session, reconciler: str) -> None:
    """Asks that a reconciler ("jobs", "endpoints") of this process looks at once when this transaction is committed."""
    session.info.setdefault(_WAKES, set()).add(reconciler)


def on_wake(sessions: SessionFactory, callback: Callable[[str], None]) -> Callable[[], None]:
    """Calls `callback(reconciler)` after each commit that asked for it; returns a function that ends this."""

    def after_commit(session: Session) -> None:
        for reconciler in session.info.pop(_WAKES, ()):
            callback(reconciler)

    event.listen(sessions, "after_commit", after_commit)
    return lambda: event.remove(sessions, "after_commit", after_commit)
