"""Drafts of Hub clients, and origins of imported versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from finmaas_platform.db.base import JsonType, UtcDateTime, WideInteger

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "drafts",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("files", JsonType, nullable=False),
        sa.Column("revision", sa.String(), nullable=False),
        sa.Column("parent", sa.String(), nullable=False),
        sa.Column("request", sa.String(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("updated_by", sa.String(), nullable=False),
        sa.Column("version", WideInteger, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_drafts_project_id_projects")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_drafts_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drafts")),
        sa.UniqueConstraint("project_id", "kind", "name", name=op.f("uq_drafts_project_id_kind_name")),
    )
    op.create_index(op.f("ix_drafts_tenant_id"), "drafts", ["tenant_id"], unique=False)
    op.create_table(
        "version_origins",
        sa.Column("version_id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("document", JsonType, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_version_origins_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_version_origins")),
    )
    op.create_index(op.f("ix_version_origins_tenant_id"), "version_origins", ["tenant_id"], unique=False)


def downgrade() -> None:
    op.drop_table("version_origins")
    op.drop_table("drafts")
