"""Rows that say who may see which blob. The store knows digests only; without a row here a blob is out of sight."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from finmaas_platform.db.base import Base

PLATFORM = "platform"
"""Stands for the tenant where a platform-wide principal has put a blob, before a version of some tenant takes it."""


class BlobRow(Base):
    """A tenant holds a blob: it has put it, or owns a version that names it."""

    __tablename__ = "blobs"

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(primary_key=True)
    size_bytes: Mapped[int]
    created_at: Mapped[datetime]


class JobBlobRow(Base):
    """A job has put a blob, in any of its attempts, so it may read it back."""

    __tablename__ = "job_blobs"

    job_id: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]


class VersionBlobRow(Base):
    """Which versions name a blob: the index behind what nodes and jobs may read. `kind` is dataset or model."""

    __tablename__ = "version_blobs"
    __table_args__ = (Index("ix_version_blobs_digest_kind", "digest", "kind"),)

    version_id: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    kind: Mapped[str]
