"""Rows of access tokens: only the HMAC of a token is kept."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, relationship

from finmaas_platform.db.base import Base
from finmaas_platform.db.principals import PrincipalRow


class AccessTokenRow(Base):
    """A principal's credential; `tenant_id` is that of the principal."""

    __tablename__ = "access_tokens"

    id: Mapped[str] = mapped_column(primary_key=True)
    hash: Mapped[str] = mapped_column(unique=True)
    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"), index=True)
    tenant_id: Mapped[str | None] = mapped_column(ForeignKey("tenants.id"))
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    # Principals other than its own who may hold it: who made it, and who held the token it was made with.
    holders: Mapped[list[Any]] = mapped_column(default=list)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    principal: Mapped[PrincipalRow] = relationship(lazy="joined", innerjoin=True)
