"""Rows of tenants."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from sqlalchemy.orm import Mapped, mapped_column

from finmaas_platform.db.base import Base


class TenantRow(Base):
    """A business unit. A tenant owns itself, hence `__tenant_key__`."""

    __tablename__ = "tenants"
    __tenant_key__: ClassVar[str] = "id"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    display_name: Mapped[str]
    state: Mapped[str]
    created_at: Mapped[datetime]
    weight: Mapped[float] = mapped_column(default=1.0, server_default="1")
    """Among the tenants that wait for a busy endpoint."""
    max_staleness_s: Mapped[int | None]
    """A gateway that has been cut off for longer refuses the tenant."""
    version: Mapped[int] = mapped_column()
    time_zone: Mapped[str] = mapped_column(server_default="UTC")
    fiscal_day: Mapped[int] = mapped_column(server_default="1")
    currency: Mapped[str] = mapped_column(server_default="CNY")
    cost_centre: Mapped[str] = mapped_column(server_default="")

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy declares it as an instance variable
