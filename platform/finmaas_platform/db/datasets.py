"""Rows of datasets and their versions. The version's row is the commit point: files without one are nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from finmaas_platform.db.base import Base
from finmaas_platform.db.projects import ProjectRow


class DatasetRow(Base):
    """A named sequence of versions; `latest_version` is the newest number."""

    __tablename__ = "datasets"
    __table_args__ = (
        UniqueConstraint("project_id", "name"),
        # Lists are read along the id, newest first, within a tenant or a project.
        Index("ix_datasets_tenant_id_id", "tenant_id", "id"),
        Index("ix_datasets_project_id_id", "project_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
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
    state: Mapped[str] = mapped_column(default="draft")
    """draft, released or purged (`domain/dataset_versions.py`)."""
    released_at: Mapped[datetime | None]
    released_by: Mapped[str | None]
    locked_until: Mapped[datetime | None]
    """Until when the bucket keeps every byte of it from removal (db/locks.py)."""

    dataset: Mapped[DatasetRow] = relationship(lazy="joined", innerjoin=True)

    @property
    def ref(self) -> str:
        """The name a user gives from anywhere in the tenant: `tenant/project/name@3`."""
        return f"{self.dataset.project.ref}/{self.dataset.name}@{self.number}"


class DatasetReportRow(Base):
    """What an import found out about a version, and where the index of its rows lies. Apart, since it is large."""

    __tablename__ = "dataset_reports"

    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    report: Mapped[dict[str, Any]]
    index_digest: Mapped[str]
    index_size: Mapped[int]


class DeletionRequestRow(Base):
    """A wish that a row be forgotten. The row itself is not written down, only its keyed digest.

    `found` lists versions, models and endpoints as they were when it was asked; `made` the versions without the row.
    """

    __tablename__ = "deletion_requests"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    kind: Mapped[str]
    digest: Mapped[str]
    reason: Mapped[str] = mapped_column(Text)
    state: Mapped[str]
    """open, approved or purged."""
    found: Mapped[dict[str, Any]]
    made: Mapped[list[Any]]
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    author_id: Mapped[str | None]
    author_token_holders: Mapped[list[Any]] = mapped_column(default=list)
    approved_at: Mapped[datetime | None]
    approved_by: Mapped[str | None]
    purged_at: Mapped[datetime | None]
