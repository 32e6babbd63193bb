"""Alembic's entry: runs migrations on the connection that it is handed, inside that connection's transaction."""

from __future__ import annotations

from alembic import context

from finmaas_platform.db.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
