"""Allowances, prices and the ledger; time, money and cost centres of tenants."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from finmaas_platform.db.base import UtcDateTime, WideInteger

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ledger_gateways",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("epoch", WideInteger, nullable=False),
        sa.Column("opened_at", UtcDateTime(), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_ledger_gateways")),
    )
    op.create_table(
        "allowances",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("scope_id", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("window_kind", sa.String(), nullable=False),
        sa.Column("amount", WideInteger, nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("version", WideInteger, nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_allowances_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_allowances")),
        sa.UniqueConstraint(
            "scope",
            "scope_id",
            "model",
            "unit",
            "window_kind",
            name=op.f("uq_allowances_scope_scope_id_model_unit_window_kind"),
        ),
    )
    with op.batch_alter_table("allowances", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_allowances_scope_id"), ["scope_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_allowances_tenant_id"), ["tenant_id"], unique=False)

    op.create_table(
        "prices",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=True),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("valid_from", sa.String(), nullable=False),
        sa.Column("input_nano", WideInteger, nullable=False),
        sa.Column("cached_nano", WideInteger, nullable=False),
        sa.Column("output_nano", WideInteger, nullable=False),
        sa.Column("reasoning_nano", WideInteger, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_prices_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prices")),
        sa.UniqueConstraint("model", "currency", "valid_from", name=op.f("uq_prices_model_currency_valid_from")),
    )
    with op.batch_alter_table("prices", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_prices_tenant_id"), ["tenant_id"], unique=False)

    op.create_table(
        "ledger_windows",
        sa.Column("id", WideInteger, nullable=False),
        sa.Column("allowance_id", sa.String(), nullable=False),
        sa.Column("starts_at", WideInteger, nullable=False),
        sa.Column("ends_at", WideInteger, nullable=False),
        sa.Column("settled", WideInteger, nullable=False),
        sa.Column("outstanding", WideInteger, nullable=False),
        sa.Column("round", WideInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["allowance_id"],
            ["allowances.id"],
            name=op.f("fk_ledger_windows_allowance_id_allowances"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_windows")),
        sa.UniqueConstraint("allowance_id", "starts_at", name=op.f("uq_ledger_windows_allowance_id_starts_at")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "ledger_slices",
        sa.Column("id", WideInteger, nullable=False),
        sa.Column("window_id", WideInteger, nullable=False),
        sa.Column("gateway", sa.String(), nullable=False),
        sa.Column("epoch", WideInteger, nullable=False),
        sa.Column("granted", WideInteger, nullable=False),
        sa.Column("returned", WideInteger, nullable=False),
        sa.Column("settled", WideInteger, nullable=False),
        sa.Column("reserved", WideInteger, nullable=False),
        sa.Column("round", WideInteger, nullable=False),
        sa.Column("tight", sa.Boolean(), nullable=False),
        sa.Column("closed", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["window_id"],
            ["ledger_windows.id"],
            name=op.f("fk_ledger_slices_window_id_ledger_windows"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_slices")),
        sa.UniqueConstraint("window_id", "gateway", "epoch", name=op.f("uq_ledger_slices_window_id_gateway_epoch")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("ledger_slices", schema=None) as batch_op:
        batch_op.create_index("ix_ledger_slices_gateway_epoch", ["gateway", "epoch"], unique=False)
        batch_op.create_index(batch_op.f("ix_ledger_slices_window_id"), ["window_id"], unique=False)

    with op.batch_alter_table("projects", schema=None) as batch_op:
        batch_op.add_column(sa.Column("cost_centre", sa.String(), server_default="", nullable=False))

    with op.batch_alter_table("tenants", schema=None) as batch_op:
        batch_op.add_column(sa.Column("time_zone", sa.String(), server_default="UTC", nullable=False))
        batch_op.add_column(sa.Column("fiscal_day", WideInteger, server_default="1", nullable=False))
        batch_op.add_column(sa.Column("currency", sa.String(), server_default="CNY", nullable=False))
        batch_op.add_column(sa.Column("cost_centre", sa.String(), server_default="", nullable=False))

    with op.batch_alter_table("usage_records", schema=None) as batch_op:
        batch_op.add_column(sa.Column("reasoning_tokens", WideInteger, server_default="0", nullable=False))
        batch_op.add_column(sa.Column("cost_nano", WideInteger, nullable=True))
        batch_op.add_column(sa.Column("currency", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("cost_centre", sa.String(), server_default="", nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("usage_records", schema=None) as batch_op:
        batch_op.drop_column("cost_centre")
        batch_op.drop_column("currency")
        batch_op.drop_column("cost_nano")
        batch_op.drop_column("reasoning_tokens")

    with op.batch_alter_table("tenants", schema=None) as batch_op:
        batch_op.drop_column("cost_centre")
        batch_op.drop_column("currency")
        batch_op.drop_column("fiscal_day")
        batch_op.drop_column("time_zone")

    with op.batch_alter_table("projects", schema=None) as batch_op:
        batch_op.drop_column("cost_centre")

    with op.batch_alter_table("ledger_slices", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_ledger_slices_window_id"))
        batch_op.drop_index("ix_ledger_slices_gateway_epoch")

    op.drop_table("ledger_slices")
    op.drop_table("ledger_windows")
    with op.batch_alter_table("prices", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_prices_tenant_id"))

    op.drop_table("prices")
    with op.batch_alter_table("allowances", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_allowances_tenant_id"))
        batch_op.drop_index(batch_op.f("ix_allowances_scope_id"))

    op.drop_table("allowances")
    op.drop_table("ledger_gateways")
