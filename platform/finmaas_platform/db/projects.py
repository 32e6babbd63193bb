"""Rows of projects."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from finmaas_platform.db.base import Base
from finmaas_platform.db.tenants import TenantRow


class ProjectRow(Base):
    """A use case inside a tenant; owner of everything below."""

    __tablename__ = "projects"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    display_name: Mapped[str]
    created_at: Mapped[datetime]
    version: Mapped[int] = mapped_column()
    cost_centre: Mapped[str] = mapped_column(server_default="")

    tenant: Mapped[TenantRow] = relationship(lazy="joined", innerjoin=True)

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy declares it as an instance variable

    @property
    def ref(self) -> str:
        """The name a user gives: `tenant/project`."""
        return f"{self.tenant.name}/{self.name}"
