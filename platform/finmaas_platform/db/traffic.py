"""Rows of traffic plans: at most one an endpoint's name, which it keeps when the endpoint is deployed anew."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, relationship

from finmaas_platform.db.base import Base, JsonType
from finmaas_platform.db.projects import ProjectRow


class TrafficRow(Base):
    """Where the requests of an endpoint go. `ended` tells of the last canary: its endpoint, when it ended, and why."""

    __tablename__ = "traffic_plans"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    endpoint: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    document: Mapped[dict[str, Any]]
    digest: Mapped[str]
    ended: Mapped[dict[str, Any] | None] = mapped_column(JsonType)
    updated_at: Mapped[datetime]
    updated_by: Mapped[str]
    version: Mapped[int] = mapped_column()

    project: Mapped[ProjectRow] = relationship(lazy="joined", innerjoin=True)

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy declares it as an instance variable

    @property
    def full_name(self) -> str:
        return f"{self.project.ref}/{self.endpoint}"
