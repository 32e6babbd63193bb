"""Rows of job tokens: the credential of one attempt of one job; only its HMAC is kept."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from finmaas_platform.db.base import Base


class JobTokenRow(Base):
    """One token an attempt: the unique pair is what makes it `once only`."""

    __tablename__ = "job_tokens"
    __table_args__ = (UniqueConstraint("job_id", "attempt"),)

    hash: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str]
    attempt: Mapped[int]
    tenant_id: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
