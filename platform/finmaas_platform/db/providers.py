"""Rows of outside providers, and of the projects that may use them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, relationship

from finmaas_platform.db.base import Base
from finmaas_platform.db.projects import ProjectRow


class ProviderRow(Base):
    """An OpenAI-compatible service outside. Of no tenant: platform-admins keep it. `sealed` holds its secret."""

    __tablename__ = "providers"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    base_url: Mapped[str]
    sealed: Mapped[str]
    created_at: Mapped[datetime]
    created_by: Mapped[str]


class ProviderApprovalRow(Base):
    """Lets a project's requests leave the house for a provider."""

    __tablename__ = "provider_approvals"

    provider_id: Mapped[str] = mapped_column(ForeignKey("providers.id"), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    approved_at: Mapped[datetime]
    approved_by: Mapped[str]

    project: Mapped[ProjectRow] = relationship(lazy="joined", innerjoin=True)
