"""Rows of provenance: claims as gateways deliver them, and the signed batches they end up in."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from finmaas_platform.db.base import Base


class ProvenanceClaimRow(Base):
    """A claim by its digest. `batch` is None until it is sealed; then `place` is its leaf in the batch's tree."""

    __tablename__ = "provenance_claims"
    __table_args__ = (Index("ix_provenance_claims_batch_place", "batch", "place"),)

    digest: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(index=True)
    request_id: Mapped[str]
    at: Mapped[datetime]
    batch: Mapped[int | None]
    place: Mapped[int | None]


class ProvenanceBatchRow(Base):
    """A signed batch of claims; see `domain/provenance.py`."""

    __tablename__ = "provenance_batches"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    root: Mapped[str]
    count: Mapped[int]
    previous: Mapped[str]
    sealed_at: Mapped[str]  # as it is signed
    signature: Mapped[str]
