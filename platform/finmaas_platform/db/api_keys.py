"""Rows of API keys: only the HMAC of a key is kept."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, relationship

from finmaas_platform.db.base import Base
from finmaas_platform.db.projects import ProjectRow


class ApiKeyRow(Base):
    """A gateway credential of a project; `models` holds `["*"]` or the public names it may call.

    `methods` are `["*"]` or names of METHODS, `networks` the CIDR blocks it may come from; none: from anywhere.
    """

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    hash: Mapped[str] = mapped_column(unique=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str]
    models: Mapped[list[Any]]
    methods: Mapped[list[Any]] = mapped_column(server_default='["*"]')
    networks: Mapped[list[Any]] = mapped_column(server_default="[]")
    priority: Mapped[str] = mapped_column(default="interactive", server_default="interactive")
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    project: Mapped[ProjectRow] = relationship(lazy="joined", innerjoin=True)
