"""Rows of requests and answers that were kept for auditors, sealed."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from finmaas_platform.db.base import Base


class ArchiveRecordRow(Base):
    """One kept text: `id` is request id and part; `sealed` can be opened with the archive's private key alone."""

    __tablename__ = "archive_records"
    __table_args__ = (Index("ix_archive_records_tenant_at", "tenant_id", "at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    part: Mapped[str]
    request_id: Mapped[str] = mapped_column(index=True)
    tenant_id: Mapped[str]
    project_id: Mapped[str]
    key_id: Mapped[str]
    endpoint_id: Mapped[str]
    at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    sealed: Mapped[bytes]
