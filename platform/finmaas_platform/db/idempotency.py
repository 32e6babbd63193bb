"""Rows of used `Idempotency-Key`s."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from finmaas_platform.db.base import Base


class IdempotencyRow(Base):
    """The answer to a write, kept a day; `response` holds no secret, `body` is the SHA-256 of the request's body."""

    __tablename__ = "idempotency_keys"

    principal_id: Mapped[str] = mapped_column(primary_key=True)
    route: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body: Mapped[str]
    status: Mapped[int]
    response: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(index=True)
