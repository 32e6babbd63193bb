"""Object locks of released versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from finmaas_platform.db.base import UtcDateTime

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_TABLES = ("model_versions", "dataset_versions")


def upgrade() -> None:
    op.create_table(
        "version_locks",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("until", UtcDateTime(), nullable=True),
        sa.Column("done", sa.String(), nullable=True),
        sa.Column("fault", sa.Text(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("lease_token", sa.String(), nullable=True),
        sa.Column("lease_expires_at", UtcDateTime(), nullable=True),
        sa.Column("due_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_version_locks")),
    )
    op.create_index(op.f("ix_version_locks_due_at"), "version_locks", ["due_at"])
    op.create_table(
        "blob_locks",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("until", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_blob_locks")),
    )
    for table in _TABLES:
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(sa.Column("locked_until", UtcDateTime(), nullable=True))


def downgrade() -> None:
    for table in _TABLES:
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column("locked_until")
    op.drop_table("blob_locks")
    op.drop_index(op.f("ix_version_locks_due_at"), table_name="version_locks")
    op.drop_table("version_locks")
