"""Claims of provenance, and the signed batches they are sealed in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from finmaas_platform.db.base import UtcDateTime, WideInteger

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "provenance_claims",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("batch", WideInteger, nullable=True),
        sa.Column("place", WideInteger, nullable=True),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_provenance_claims")),
    )
    op.create_index("ix_provenance_claims_batch_place", "provenance_claims", ["batch", "place"])
    op.create_index(op.f("ix_provenance_claims_tenant_id"), "provenance_claims", ["tenant_id"])
    op.create_table(
        "provenance_batches",
        sa.Column("number", WideInteger, autoincrement=False, nullable=False),
        sa.Column("root", sa.String(), nullable=False),
        sa.Column("count", WideInteger, nullable=False),
        sa.Column("previous", sa.String(), nullable=False),
        sa.Column("sealed_at", sa.String(), nullable=False),
        sa.Column("signature", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_provenance_batches")),
    )


def downgrade() -> None:
    op.drop_table("provenance_batches")
    op.drop_table("provenance_claims")
