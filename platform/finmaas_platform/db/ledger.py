"""Rows of the ledger: gateways, windows of allowances, and the slices of them that gateways hold."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from finmaas_platform.db.base import Base


class LedgerGatewayRow(Base):
    """A gateway with its spool; `epoch` names the process that speaks for it now. A new one ends the one before."""

    __tablename__ = "ledger_gateways"

    name: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int]
    opened_at: Mapped[datetime]
    seen_at: Mapped[datetime]


class LedgerWindowRow(Base):
    """One window of one allowance. `settled` + `outstanding` never passes the limit by what the ledger hands out."""

    __tablename__ = "ledger_windows"
    __table_args__ = (UniqueConstraint("allowance_id", "starts_at"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    allowance_id: Mapped[str] = mapped_column(ForeignKey("allowances.id", ondelete="CASCADE"))
    starts_at: Mapped[int]
    """Epoch seconds; 0 for a standing window, which has no end."""
    ends_at: Mapped[int]
    settled: Mapped[int]
    outstanding: Mapped[int]
    round: Mapped[int]
    """The last recall: holders that have answered it have given back what was idle."""


class LedgerSliceRow(Base):
    """What one process of a gateway holds of a window: `granted` - `returned` - `settled` is outstanding.

    `settled` holds what a repeated line of a batch used, which its window does not count.
    """

    __tablename__ = "ledger_slices"
    __table_args__ = (
        UniqueConstraint("window_id", "gateway", "epoch"),
        Index("ix_ledger_slices_gateway_epoch", "gateway", "epoch"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    window_id: Mapped[int] = mapped_column(ForeignKey("ledger_windows.id", ondelete="CASCADE"), index=True)
    gateway: Mapped[str]
    epoch: Mapped[int]
    granted: Mapped[int]
    returned: Mapped[int]
    settled: Mapped[int]
    reserved: Mapped[int]
    round: Mapped[int]
    tight: Mapped[bool]
    closed: Mapped[bool]
