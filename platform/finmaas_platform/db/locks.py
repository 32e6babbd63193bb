"""Rows of locks: which released versions keep their bytes locked in the bucket, and until when each blob is."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column

from finmaas_platform.db.base import Base
from finmaas_platform.db.leases import Leased


class VersionLockRow(Leased, Base):
    """A version (`id`) whose blobs are to be locked; written in the transaction that approves or releases it."""

    __tablename__ = "version_locks"

    tenant_id: Mapped[str]
    kind: Mapped[str]
    """model or dataset."""
    state: Mapped[str] = mapped_column(default="pending")
    """pending, locked or unsupported (the bucket has no object lock)."""
    until: Mapped[datetime | None]
    """The end of the present round of locks, and of the last whole one once `done` is empty."""
    done: Mapped[str | None]
    """The last file, by digest, that this round has locked; None between rounds."""
    fault: Mapped[str] = mapped_column(Text, default="")
    """Why the last step failed; it is tried again."""


class BlobLockRow(Base):
    """A blob that the bucket keeps until then, whatever names it: garbage collection leaves it alone."""

    __tablename__ = "blob_locks"

    digest: Mapped[str] = mapped_column(primary_key=True)
    until: Mapped[datetime]
