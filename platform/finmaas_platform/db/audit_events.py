"""Rows of audit events: written in the transaction of the change they tell of, never changed after."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from finmaas_platform.db.base import Base


class AuditEventRow(Base):
    """Who did what to which, before and after; `tenant_id` is the tenant whose thing was changed."""

    __tablename__ = "audit_events"

    id: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    tenant_id: Mapped[str | None] = mapped_column(index=True)
    caller_kind: Mapped[str]
    caller_id: Mapped[str]
    caller_name: Mapped[str]
    action: Mapped[str] = mapped_column(index=True)
    target: Mapped[str] = mapped_column(index=True)
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]
    request_id: Mapped[str | None]
