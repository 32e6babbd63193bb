"""Rows of drafts: what Hub clients have committed to a model or dataset since its newest version."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from finmaas_platform.db.base import Base
from finmaas_platform.db.projects import ProjectRow


class DraftRow(Base):
    """The files that the next version will have; at most one a name. It is gone once it is released or discarded.

    `revision` is that of the files now. `parent` and `request` tell the last commit apart from a new one that only
    looks like it: a client whose answer was lost sends it again.
    """

    __tablename__ = "drafts"
    __table_args__ = (UniqueConstraint("project_id", "kind", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    kind: Mapped[str]
    name: Mapped[str]
    files: Mapped[list[Any]]
    revision: Mapped[str]
    parent: Mapped[str]
    request: Mapped[str]
    message: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    updated_at: Mapped[datetime]
    updated_by: Mapped[str]
    authors: Mapped[list[Any]] = mapped_column(default=list)
    """Who opened it and who committed: `id` and `token_holders` of each."""
    version: Mapped[int] = mapped_column()

    project: Mapped[ProjectRow] = relationship(lazy="joined", innerjoin=True)

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy declares it as an instance variable

    @property
    def ref(self) -> str:
        """The name a user gives: `tenant/project/name`."""
        return f"{self.project.ref}/{self.name}"
