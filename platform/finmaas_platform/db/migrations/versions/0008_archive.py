"""Requests and answers kept for auditors."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from finmaas_platform.db.base import UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    names = ("id", "part", "request_id", "tenant_id", "project_id", "key_id", "endpoint_id")
    op.create_table(
        "archive_records",
        *(sa.Column(name, sa.String(), nullable=False) for name in names),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_archive_records")),
    )
    op.create_index("ix_archive_records_tenant_at", "archive_records", ["tenant_id", "at"])
    op.create_index(op.f("ix_archive_records_request_id"), "archive_records", ["request_id"])
    op.create_index(op.f("ix_archive_records_expires_at"), "archive_records", ["expires_at"])


def downgrade() -> None:
    op.drop_table("archive_records")
