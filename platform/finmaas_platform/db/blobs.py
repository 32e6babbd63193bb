"""Rows that say who may see which blob. The store knows digests only; without a row here a blob is out of sight."""

from __future__ import annotations

from datetime import datetime
from typing import Any

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


class BlobTouchRow(Base):
    """When a blob was last put, asked for or named: the row that uploads and garbage collection agree on.

    `deleting` is set in one transaction with the proof that nothing names the blob; from then on nobody may use it
    until its bytes and this row are gone. Whoever names a blob touches it in the same transaction.
    """

    __tablename__ = "blob_touches"

    digest: Mapped[str] = mapped_column(primary_key=True)
    touched_at: Mapped[datetime] = mapped_column(index=True)
    deleting: Mapped[bool] = mapped_column(default=False)


class BlobRecipeRow(Base):
    """A file that lies in the store as blocks: `blocks` is a list of [digest, size], checked against the digest."""

    __tablename__ = "blob_recipes"

    digest: Mapped[str] = mapped_column(primary_key=True)
    size_bytes: Mapped[int]
    blocks: Mapped[list[Any]]
    created_at: Mapped[datetime]


class BlobKeyRow(Base):
    """A data key under which blobs are sealed, wrapped by the key ring. The newest seals, all open."""

    __tablename__ = "blob_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    wrapping_key: Mapped[str]
    wrapped: Mapped[str]
    created_at: Mapped[datetime]
