"""Recipes of files made of blocks, wrapped data keys, and when each blob was last wanted (for garbage collection)."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from finmaas_platform.db.base import JsonType, UtcDateTime, WideInteger

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    touches = op.create_table(
        "blob_touches",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("touched_at", UtcDateTime(), nullable=False),
        sa.Column("deleting", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_blob_touches")),
    )
    op.create_index(op.f("ix_blob_touches_touched_at"), "blob_touches", ["touched_at"], unique=False)
    op.create_table(
        "blob_recipes",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("size_bytes", WideInteger, nullable=False),
        sa.Column("blocks", JsonType, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_blob_recipes")),
    )
    op.create_table(
        "blob_keys",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("wrapping_key", sa.String(), nullable=False),
        sa.Column("wrapped", sa.String(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_blob_keys")),
    )
    # What lies in the store already counts as wanted now.
    blobs = sa.table("blobs", sa.column("digest", sa.String()))
    now = sa.literal(datetime.now(UTC), UtcDateTime())
    held = sa.select(blobs.c.digest, now, sa.false()).distinct()
    op.execute(touches.insert().from_select(["digest", "touched_at", "deleting"], held))


def downgrade() -> None:
    op.drop_table("blob_keys")
    op.drop_table("blob_recipes")
    op.drop_table("blob_touches")
