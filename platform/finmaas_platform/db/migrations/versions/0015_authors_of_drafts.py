"""Everybody who committed to a draft, and so is an author of the version that it becomes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from finmaas_platform.db.base import JsonType

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_COLUMNS = (("drafts", "authors"), ("model_versions", "co_authors"))


def upgrade() -> None:
    for table, column in _COLUMNS:
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(sa.Column(column, JsonType, server_default="[]", nullable=False))


def downgrade() -> None:
    for table, column in _COLUMNS:
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column(column)
