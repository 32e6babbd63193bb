"""Rows of principals: users and service accounts."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from finmaas_platform.db.base import Base
from finmaas_platform.db.tenants import TenantRow


class PrincipalRow(Base):
    """A user or service account with its role; `tenant_id` is null for platform-wide ones.

    Names are unique within a tenant, and among the platform-wide (where a plain constraint would not count nulls).
    """

    __tablename__ = "principals"
    __table_args__ = (
        UniqueConstraint("tenant_id", "name"),
        Index("uq_principals_issuer_subject", "issuer", "subject", unique=True),
        Index(
            "uq_principals_platform_wide_name",
            "name",
            unique=True,
            sqlite_where=text("tenant_id IS NULL"),
            postgresql_where=text("tenant_id IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str | None] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    kind: Mapped[str]
    role: Mapped[str]
    disabled: Mapped[bool]
    created_at: Mapped[datetime]
    created_by_id: Mapped[str | None]
    # Who they are to the identity provider; both or neither.
    issuer: Mapped[str | None]
    subject: Mapped[str | None]
    version: Mapped[int] = mapped_column()

    tenant: Mapped[TenantRow | None] = relationship(lazy="joined")

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy declares it as an instance variable
