"""Rows of origins: where a version was before it came here, as the other place told it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from finmaas_platform.db.base import Base


class OriginRow(Base):
    """Beside a version that was imported. `kind` is model or dataset, `source` archive or hub.

    `document` is what that place said: nothing in it was checked here but the files and, where a trust root is
    configured, the signature.
    """

    __tablename__ = "version_origins"

    version_id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    kind: Mapped[str]
    source: Mapped[str]
    document: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    verified_by: Mapped[str | None]
    """The trusted key under which the other site's signature held; None: it bore none, or nobody looked."""
