"""Rows of files that clients uploaded, of batches over them, and of the lines of a batch."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from finmaas_platform.db.base import Base
from finmaas_platform.db.leases import Leased
from finmaas_platform.db.projects import ProjectRow


class FileRow(Base):
    """A file of a project; its bytes lie in the blob store. `key_id` is the API key that made it."""

    __tablename__ = "files"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    key_id: Mapped[str]
    name: Mapped[str]
    purpose: Mapped[str]
    digest: Mapped[str]
    size_bytes: Mapped[int]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]


class BatchRow(Leased, Base):
    """A batch; the `…_at` columns say when it came to each state."""

    __tablename__ = "batches"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    endpoint: Mapped[str]
    input_file_id: Mapped[str] = mapped_column(ForeignKey("files.id"))
    state: Mapped[str]
    note: Mapped[dict[str, Any]]
    """The client's metadata."""
    faults: Mapped[list[Any]]
    total: Mapped[int] = mapped_column(default=0)
    done: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    output_file_id: Mapped[str | None]
    error_file_id: Mapped[str | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    in_progress_at: Mapped[datetime | None]
    finalizing_at: Mapped[datetime | None]
    cancelling_at: Mapped[datetime | None]
    settled_at: Mapped[datetime | None]

    project: Mapped[ProjectRow] = relationship(lazy="select")


class BatchLineRow(Base):
    """One request of a batch. `answer` is kept until the output file is written.

    `charged`: a usage record of this line counts already, so another one of the same line will not.
    """

    __tablename__ = "batch_lines"
    __table_args__ = (Index("ix_batch_lines_batch_id_state", "batch_id", "state"),)

    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    custom_id: Mapped[str]
    offset: Mapped[int]
    size_bytes: Mapped[int]
    state: Mapped[str]
    attempts: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime | None]
    status: Mapped[int | None]
    request_id: Mapped[str | None]
    answer: Mapped[str | None] = mapped_column(Text)
    charged: Mapped[bool] = mapped_column(default=False)
