"""Rows of guardrail policies: at most one a project."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, relationship

from finmaas_platform.db.base import Base
from finmaas_platform.db.projects import ProjectRow


class PolicyRow(Base):
    """What the gateway looks for in a project's requests and answers; `digest` is that of the document."""

    __tablename__ = "policies"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    document: Mapped[dict[str, Any]]
    digest: Mapped[str]
    updated_at: Mapped[datetime]
    updated_by: Mapped[str]
    version: Mapped[int] = mapped_column()

    project: Mapped[ProjectRow] = relationship(lazy="joined", innerjoin=True)

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy declares it as an instance variable
