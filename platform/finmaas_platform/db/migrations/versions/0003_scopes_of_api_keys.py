"""What API keys may ask for, and where they may come from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from finmaas_platform.db.base import JsonType

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.add_column(sa.Column("methods", JsonType, server_default='["*"]', nullable=False))
        batch_op.add_column(sa.Column("networks", JsonType, server_default="[]", nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.drop_column("networks")
        batch_op.drop_column("methods")
