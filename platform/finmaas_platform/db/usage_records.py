"""Rows of usage records as gateways deliver them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from finmaas_platform.db.base import Base


class UsageRecordRow(Base):
    """What one request used. `(gateway_id, seq)` names it, so that a repeated delivery counts once."""

    __tablename__ = "usage_records"
    __table_args__ = (UniqueConstraint("gateway_id", "seq"), Index("ix_usage_records_project_at", "project_id", "at"))

    id: Mapped[str] = mapped_column(primary_key=True)
    gateway_id: Mapped[str]
    seq: Mapped[int]
    request_id: Mapped[str]
    at: Mapped[datetime]
    key_id: Mapped[str]
    project_id: Mapped[str]
    tenant_id: Mapped[str] = mapped_column(index=True)
    endpoint_id: Mapped[str] = mapped_column(index=True)
    model_version_id: Mapped[str | None]
    path: Mapped[str]
    status: Mapped[int]
    stream: Mapped[bool]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    cached_tokens: Mapped[int]
    ttft_ms: Mapped[float | None]
    duration_ms: Mapped[float]
    replica: Mapped[str | None]
    finish: Mapped[str]
    counted_by: Mapped[str]
    reasoning_tokens: Mapped[int] = mapped_column(server_default="0")
    cost_nano: Mapped[int | None]
    currency: Mapped[str | None]
    cost_centre: Mapped[str] = mapped_column(server_default="")
    target_id: Mapped[str | None]
    """The endpoint or outside provider that answered."""
    failed_target_id: Mapped[str | None]
    """The first one that was asked and failed, where another one answered."""
    traffic: Mapped[str] = mapped_column(server_default="")
    attempts: Mapped[int] = mapped_column(server_default="1")
