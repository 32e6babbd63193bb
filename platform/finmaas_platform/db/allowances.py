"""Rows of allowances and of prices."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from finmaas_platform.db.base import Base


class AllowanceRow(Base):
    """What may be spent in a window. `scope_id` is the id of a tenant, project, key or principal; of a model its name.

    `model` narrows it to one endpoint (full name); empty: all. `amount` counts nano-units where `unit` is money.
    """

    __tablename__ = "allowances"
    __table_args__ = (UniqueConstraint("scope", "scope_id", "model", "unit", "window_kind"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    scope: Mapped[str]
    scope_id: Mapped[str] = mapped_column(index=True)
    model: Mapped[str]
    label: Mapped[str]
    unit: Mapped[str]
    window_kind: Mapped[str]
    amount: Mapped[int]
    currency: Mapped[str]
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    version: Mapped[int] = mapped_column()

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy declares it as an instance variable


class PriceRow(Base):
    """What tokens of a model cost from a day on, in nano-units for a million; `tenant_id` is the model's owner.

    For the model `*` (every model without a price of its own) it is None.
    """

    __tablename__ = "prices"
    __table_args__ = (UniqueConstraint("model", "currency", "valid_from"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str | None] = mapped_column(ForeignKey("tenants.id"), index=True)
    model: Mapped[str]
    currency: Mapped[str]
    valid_from: Mapped[str]
    input_nano: Mapped[int]
    cached_nano: Mapped[int]
    output_nano: Mapped[int]
    reasoning_nano: Mapped[int]
    created_at: Mapped[datetime]
    created_by: Mapped[str]
