"""The life cycle of model versions: state, author, aliases, rules, history, signatures, cards, parents, OIDC."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from finmaas_platform.db.base import JsonType, UtcDateTime, WideInteger

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_COLUMNS = {
    "model_versions": (
        ("state", sa.String(), "candidate"),
        ("revision", WideInteger, "1"),
        ("author_id", sa.String(), None),
        ("author_token_holders", JsonType, "[]"),
        ("materials", JsonType, "{}"),
    ),
    "jobs": (("author_id", sa.String(), None), ("author_token_holders", JsonType, "[]")),
    "principals": (
        ("created_by_id", sa.String(), None),
        ("issuer", sa.String(), None),
        ("subject", sa.String(), None),
    ),
    "access_tokens": (("holders", JsonType, "[]"),),
    "endpoints": (("production", sa.Boolean(), sa.false()),),
}
_INDEXES = (
    ("jobs", "base_version_id"),
    ("jobs", "subject_version_id"),
    ("endpoints", "model_version_id"),
)


def upgrade() -> None:
    for table, columns in _COLUMNS.items():
        with op.batch_alter_table(table, schema=None) as batch_op:
            for name, kind, default in columns:
                batch_op.add_column(sa.Column(name, kind, server_default=default, nullable=default is None))
    for table, column in _INDEXES:
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column])
    op.create_index("uq_principals_issuer_subject", "principals", ["issuer", "subject"], unique=True)
    _make_tables()
    _find_authors()


def downgrade() -> None:
    for table in (
        "model_cards",
        "model_signatures",
        "model_events",
        "model_aliases",
        "approval_rules",
        "model_parents",
    ):
        op.drop_table(table)
    op.drop_index("uq_principals_issuer_subject", table_name="principals")
    for table, column in _INDEXES:
        op.drop_index(op.f(f"ix_{table}_{column}"), table_name=table)
    for table, columns in _COLUMNS.items():
        with op.batch_alter_table(table, schema=None) as batch_op:
            for name, _, _ in columns:
                batch_op.drop_column(name)


def _make_tables() -> None:
    _make_table(
        "model_parents",
        ["version_id", "parent_id"],
        {"version_id": "model_versions", "parent_id": "model_versions", "tenant_id": "tenants"},
        sa.Column("position", WideInteger, nullable=False),
        indexes=("parent_id",),
    )
    _make_table(
        "approval_rules",
        ["project_id"],
        {"project_id": "projects", "tenant_id": "tenants"},
        sa.Column("document", JsonType, nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("updated_by", sa.String(), nullable=False),
        sa.Column("version", WideInteger, nullable=False),
        indexes=("tenant_id",),
    )
    _make_table(
        "model_aliases",
        ["id"],
        {"tenant_id": "tenants", "model_id": "models", "version_id": "model_versions"},
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("updated_by", sa.String(), nullable=False),
        sa.Column("version", WideInteger, nullable=False),
        sa.UniqueConstraint("model_id", "name", name=op.f("uq_model_aliases_model_id_name")),
        indexes=("tenant_id", "version_id"),
    )
    _make_table(
        "model_events",
        ["id"],
        {"tenant_id": "tenants", "model_id": "models"},
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("version_id", sa.String(), nullable=True),
        *(sa.Column(name, sa.String(), nullable=name != "action") for name in ("alias", "action", "before", "after")),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("outcomes", JsonType, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("by_id", sa.String(), nullable=False),
        sa.Column("by_name", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_versions.id"], name=op.f("fk_model_events_version_id_model_versions")
        ),
        indexes=("version_id",),
    )
    op.create_index("ix_model_events_model_id_id", "model_events", ["model_id", "id"])
    _make_table(
        "model_signatures",
        ["version_id"],
        {"version_id": "model_versions", "tenant_id": "tenants"},
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("signed_at", UtcDateTime(), nullable=False),
        sa.Column("signed_by", sa.String(), nullable=False),
    )
    _make_table(
        "model_cards",
        ["id"],
        {"tenant_id": "tenants", "version_id": "model_versions"},
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("language", sa.String(), nullable=False),
        sa.Column("number", WideInteger, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.UniqueConstraint("version_id", "language", "number", name=op.f("uq_model_cards_version_id_language_number")),
    )


def _make_table(
    name: str, key: list[str], foreign: dict[str, str], *parts: sa.schema.SchemaItem, indexes: tuple[str, ...] = ()
) -> None:
    """A table whose `foreign` columns name rows of other tables by their id."""
    op.create_table(
        name,
        *(sa.Column(column, sa.String(), nullable=False) for column in foreign),
        *parts,
        *(
            sa.ForeignKeyConstraint([column], [f"{table}.id"], name=op.f(f"fk_{name}_{column}_{table}"))
            for column, table in foreign.items()
        ),
        sa.PrimaryKeyConstraint(*key, name=op.f(f"pk_{name}")),
    )
    for column in indexes:
        op.create_index(op.f(f"ix_{name}_{column}"), name, [column])


def _find_authors() -> None:
    """Earlier rows hold the author's name only: it is their principal where exactly one bears it in their sight."""
    found = """
        UPDATE {table} SET author_id = (
            SELECT MIN(p.id) FROM principals p
            WHERE p.name = {table}.created_by AND (p.tenant_id = {table}.tenant_id OR p.tenant_id IS NULL)
            HAVING COUNT(*) = 1)
    """
    op.execute(found.format(table="jobs"))
    op.execute(found.format(table="model_versions") + " WHERE job_id IS NULL")
    op.execute(
        "UPDATE model_versions SET author_id = (SELECT j.author_id FROM jobs j WHERE j.id = model_versions.job_id) "
        "WHERE job_id IS NOT NULL"
    )
