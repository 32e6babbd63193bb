"""Who asked that a row be forgotten, as four eyes see them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from finmaas_platform.db.base import JsonType

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("deletion_requests", schema=None) as batch_op:
        batch_op.add_column(sa.Column("author_id", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("author_token_holders", JsonType, server_default="[]", nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("deletion_requests", schema=None) as batch_op:
        batch_op.drop_column("author_token_holders")
        batch_op.drop_column("author_id")
