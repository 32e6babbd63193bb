"""Rows of models and their versions, with the lineage that leads back to job, data and base."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from finmaas_platform.db.base import Base
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.domain.model_versions import VersionState


class ModelRow(Base):
    """A named sequence of versions; `latest_version` is the newest number."""

    __tablename__ = "models"
    __table_args__ = (
        UniqueConstraint("project_id", "name"),
        # Lists are read along the id, newest first, within a tenant or a project.
        Index("ix_models_tenant_id_id", "tenant_id", "id"),
        Index("ix_models_project_id_id", "project_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    latest_version: Mapped[int]
    created_at: Mapped[datetime]
    created_by: Mapped[str]

    project: Mapped[ProjectRow] = relationship(lazy="joined", innerjoin=True)


class ModelVersionRow(Base):
    """One immutable artefact: files never change, `metrics` may grow. `files` is a list of {path, sha256, size}."""

    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("model_id", "number"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    number: Mapped[int]
    kind: Mapped[str]
    description: Mapped[str] = mapped_column(Text)
    files: Mapped[list[Any]]
    size_bytes: Mapped[int]
    digest: Mapped[str] = mapped_column(index=True)
    metrics: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(default=VersionState.CANDIDATE.value)
    # Rises with each move of the state: the ETag.
    revision: Mapped[int] = mapped_column(default=1)
    author_id: Mapped[str | None]
    """The principal who registered it, or who asked for its job; unknown of some that are older than this column."""
    author_token_holders: Mapped[list[Any]] = mapped_column(default=list)
    co_authors: Mapped[list[Any]] = mapped_column(default=list)
    """The others who committed to the draft that it was: `id` and `token_holders` of each."""
    materials: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """What made it: code, packages, data, parameters, hardware; as its job told."""
    # A job registers at most one version; that makes handing a result over twice harmless.
    job_id: Mapped[str | None] = mapped_column(unique=True)
    dataset_version_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id"), index=True)
    base_version_id: Mapped[str | None] = mapped_column(ForeignKey("model_versions.id"), index=True)
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    locked_until: Mapped[datetime | None]
    """Until when the bucket keeps every byte of it from removal (db/locks.py)."""

    model: Mapped[ModelRow] = relationship(lazy="joined", innerjoin=True)

    @property
    def ref(self) -> str:
        """The name a user gives from anywhere in the tenant: `tenant/project/name@3`."""
        return f"{self.model.project.ref}/{self.model.name}@{self.number}"


class ModelParentRow(Base):
    """A version that another was merged from, in the order they were given."""

    __tablename__ = "model_parents"

    version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"), primary_key=True)
    parent_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"), primary_key=True, index=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    position: Mapped[int]
