"""Rows of endpoints, and their mapping to `domain/endpoints.py`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from finmaas_platform.db.base import Base
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.domain.endpoints import Endpoint, EndpointState

_LIVE = text("state != 'stopped'")


class EndpointRow(Base):
    """A served name. Stopped ones stay as history, so a name is unique among the others only."""

    __tablename__ = "endpoints"
    __table_args__ = (
        Index(
            "uq_endpoints_project_id_name_live",
            "project_id",
            "name",
            unique=True,
            sqlite_where=_LIVE,
            postgresql_where=_LIVE,
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str]
    model_version_id: Mapped[str] = mapped_column(index=True)
    model_ref: Mapped[str]
    """`tenant/project/name@3`, as it was resolved."""
    replicas: Mapped[int]
    engine: Mapped[dict[str, Any]]
    production: Mapped[bool] = mapped_column(default=False)
    """Serves approved versions only."""

    state: Mapped[str]
    reason: Mapped[str] = mapped_column(Text)
    ready_replicas: Mapped[int] = mapped_column(default=0)

    created_at: Mapped[datetime]
    created_by: Mapped[str]
    stopped_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(default=1)

    project: Mapped[ProjectRow] = relationship(lazy="joined", innerjoin=True)

    @property
    def full_name(self) -> str:
        """`tenant/project/endpoint`, the name that the engine serves and that any client may use."""
        return f"{self.project.ref}/{self.name}"


def to_endpoint(row: EndpointRow) -> Endpoint:
    """The endpoint as its plan sees it."""
    return Endpoint(
        id=row.id,
        model_name=row.full_name,
        model_version_id=row.model_version_id,
        state=EndpointState(row.state),
        reason=row.reason,
        replicas=row.replicas,
        ready_replicas=row.ready_replicas,
        engine=dict(row.engine),
    )
