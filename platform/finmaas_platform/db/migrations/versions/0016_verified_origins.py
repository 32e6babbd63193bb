"""Whether the signature that a version brought along was verified here, and by which key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("version_origins", schema=None) as batch_op:
        batch_op.add_column(sa.Column("verified_by", sa.String(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("version_origins", schema=None) as batch_op:
        batch_op.drop_column("verified_by")
