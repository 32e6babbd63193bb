"""What belongs to the installation as a whole: one row."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from finmaas_platform.db.base import Base


class InstallationRow(Base):
    """`pepper_check` is an HMAC under the pepper, by which a lost or foreign pepper is noticed."""

    __tablename__ = "installation"

    id: Mapped[int] = mapped_column(primary_key=True)
    pepper_check: Mapped[str]
    created_at: Mapped[datetime]
