"""Rows of datasets and their versions. The version's row is the commit point: files without one are nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from finmaas_platform.db.base import Base
from finmaas_platform.db.projects import ProjectRow


class DatasetRow(Base):
    """A named sequence of versions; `latest_version` is the newest number."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("project_id", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    latest_version: Mapped[int]
    created_at: Mapped[datetime]
    created_by: Mapped[str]

    project: Mapped[ProjectRow] = relationship(lazy="joined", innerjoin=True)


class DatasetVersionRow(Base):
    """One immutable snapshot of rows. `files` is a list of {path, sha256, size}, `digest` that of their manifest."""

    __tablename__ = "dataset_versions"
    __table_args__ = (UniqueConstraint("dataset_id", "number"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    number: Mapped[int]
    shape: Mapped[str]
    rows: Mapped[int]
    splits: Mapped[dict[str, Any]]
    schema: Mapped[list[Any]]
    stats: Mapped[dict[str, Any]]
    files: Mapped[list[Any]]
    size_bytes: Mapped[int]
    digest: Mapped[str] = mapped_column(index=True)
    source: Mapped[str]
    created_at: Mapped[datetime]
    created_by: Mapped[str]

    dataset: Mapped[DatasetRow] = relationship(lazy="joined", innerjoin=True)

    @property
    def ref(self) -> str:
        """The name a user gives from anywhere in the tenant: `tenant/project/name@3`."""
        return f"{self.dataset.project.ref}/{self.dataset.name}@{self.number}"
