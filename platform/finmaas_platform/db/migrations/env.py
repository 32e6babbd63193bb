"""Alembic's entry: runs migrations on the connection that it is handed, inside that connection's transaction."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import JSON, BigInteger

from finmaas_platform.db.base import UtcDateTime
from finmaas_platform.db.schema import metadata

# Column types of ours, by the names under which `db/base.py` holds them.
_OUR_TYPES = ((UtcDateTime, "UtcDateTime()"), (JSON, "JsonType"), (BigInteger, "WideInteger"))


def _render(kind: str, item: Any, autogen: AutogenContext) -> str | Literal[False]:
    """Our own column types by name; all others as Alembic does."""
    for cls, text in _OUR_TYPES if kind == "type" else ():
        if isinstance(item, cls):
            autogen.imports.add(f"from finmaas_platform.db.base import {text.removesuffix('()')}")
            return text
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_type=True,
    render_item=_render,
)
with context.begin_transaction():
    context.run_migrations()
