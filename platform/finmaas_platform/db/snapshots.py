"""The counter that numbers gateway snapshots: one row."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from finmaas_platform.db.base import Base


class SnapshotCounterRow(Base):
    """Raised in every transaction that changes what gateways must know."""

    __tablename__ = "snapshot_counter"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]
