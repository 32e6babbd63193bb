"""Rows of approval: a project's rules, aliases, the history of versions, their signatures and cards."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from finmaas_platform.db.base import Base
from finmaas_platform.db.models import ModelVersionRow
from finmaas_platform.db.projects import ProjectRow


class ApprovalRulesRow(Base):
    """What a project asks of a version; one a project at most."""

    __tablename__ = "approval_rules"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    document: Mapped[dict[str, Any]]
    updated_at: Mapped[datetime]
    updated_by: Mapped[str]
    version: Mapped[int] = mapped_column()

    project: Mapped[ProjectRow] = relationship(lazy="joined", innerjoin=True)

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy declares it as an instance variable


class ModelAliasRow(Base):
    """A name that points at one version of a model."""

    __tablename__ = "model_aliases"
    __table_args__ = (UniqueConstraint("model_id", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    name: Mapped[str]
    version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"), index=True)
    updated_at: Mapped[datetime]
    updated_by: Mapped[str]
    version: Mapped[int] = mapped_column()

    points_at: Mapped[ModelVersionRow] = relationship(lazy="joined", innerjoin=True)

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy declares it as an instance variable


class ModelEventRow(Base):
    """What happened to a version, for everybody who may see it: a move of its state, or of an alias."""

    __tablename__ = "model_events"
    __table_args__ = (Index("ix_model_events_model_id_id", "model_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    version_id: Mapped[str | None] = mapped_column(ForeignKey("model_versions.id"), index=True)
    alias: Mapped[str | None]
    action: Mapped[str]
    before: Mapped[str | None]
    after: Mapped[str | None]
    note: Mapped[str] = mapped_column(Text)
    outcomes: Mapped[list[Any]]
    at: Mapped[datetime]
    by_id: Mapped[str]
    by_name: Mapped[str]


class ModelSignatureRow(Base):
    """The signature of an approved version: a Sigstore bundle, as `model_signing` writes and reads it."""

    __tablename__ = "model_signatures"

    version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    bundle: Mapped[str] = mapped_column(Text)
    key_id: Mapped[str]
    signed_at: Mapped[datetime]
    signed_by: Mapped[str]


class ModelCardRow(Base):
    """One edition of a version's card; the newest of a language counts. Without one the card is generated."""

    __tablename__ = "model_cards"
    __table_args__ = (UniqueConstraint("version_id", "language", "number"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"))
    language: Mapped[str]
    number: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime]
    by: Mapped[str]
