"""Rows of what gateways last told of themselves: one a gateway process."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from finmaas_platform.db.base import Base


class GatewayReportRow(Base):
    """The last report of a gateway. Its lines name projects of all tenants: show each caller its own only."""

    __tablename__ = "gateway_reports"

    gateway_id: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime]
    report: Mapped[dict[str, Any]]
