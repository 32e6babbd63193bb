"""Rows of grants: a project may call another project's endpoint."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from finmaas_platform.db.base import Base
from finmaas_platform.db.projects import ProjectRow

_LIVE = text("revoked_at IS NULL")


class GrantRow(Base):
    """`tenant_id` is the endpoint's owner; `project_id` the project that may call, maybe of another tenant.

    The endpoint is named by id and by its full name at the time of the grant, so that the record stays readable
    after the endpoint is gone.
    """

    __tablename__ = "grants"
    __table_args__ = (
        Index(
            "uq_grants_endpoint_id_project_id_live",
            "endpoint_id",
            "project_id",
            unique=True,
            sqlite_where=_LIVE,
            postgresql_where=_LIVE,
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    endpoint_id: Mapped[str] = mapped_column(index=True)
    endpoint: Mapped[str]
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    revoked_at: Mapped[datetime | None]

    project: Mapped[ProjectRow] = relationship(lazy="joined", innerjoin=True)
