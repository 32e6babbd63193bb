"""Traffic plans of endpoints, outside providers, terms of tenants and keys, and who answered a request."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from finmaas_platform.db.base import JsonType, UtcDateTime, WideInteger

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "traffic_plans",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("endpoint", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("document", JsonType, nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("ended", JsonType, nullable=True),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("updated_by", sa.String(), nullable=False),
        sa.Column("version", WideInteger, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_traffic_plans_project_id_projects")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_traffic_plans_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("project_id", "endpoint", name=op.f("pk_traffic_plans")),
    )
    with op.batch_alter_table("traffic_plans", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_traffic_plans_tenant_id"), ["tenant_id"], unique=False)
    op.create_table(
        "providers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("base_url", sa.String(), nullable=False),
        sa.Column("sealed", sa.String(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_providers")),
        sa.UniqueConstraint("name", name=op.f("uq_providers_name")),
    )
    op.create_table(
        "provider_approvals",
        sa.Column("provider_id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("approved_at", UtcDateTime(), nullable=False),
        sa.Column("approved_by", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_provider_approvals_project_id_projects")
        ),
        sa.ForeignKeyConstraint(
            ["provider_id"], ["providers.id"], name=op.f("fk_provider_approvals_provider_id_providers")
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_provider_approvals_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("provider_id", "project_id", name=op.f("pk_provider_approvals")),
    )
    with op.batch_alter_table("provider_approvals", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_provider_approvals_tenant_id"), ["tenant_id"], unique=False)
    with op.batch_alter_table("tenants", schema=None) as batch_op:
        batch_op.add_column(sa.Column("weight", sa.Double(), server_default="1", nullable=False))
        batch_op.add_column(sa.Column("max_staleness_s", WideInteger, nullable=True))
    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.add_column(sa.Column("priority", sa.String(), server_default="interactive", nullable=False))
    with op.batch_alter_table("usage_records", schema=None) as batch_op:
        batch_op.add_column(sa.Column("target_id", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("failed_target_id", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("traffic", sa.String(), server_default="", nullable=False))
        batch_op.add_column(sa.Column("attempts", WideInteger, server_default="1", nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("usage_records", schema=None) as batch_op:
        for name in ("attempts", "traffic", "failed_target_id", "target_id"):
            batch_op.drop_column(name)
    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.drop_column("priority")
    with op.batch_alter_table("tenants", schema=None) as batch_op:
        batch_op.drop_column("max_staleness_s")
        batch_op.drop_column("weight")
    for name in ("provider_approvals", "providers", "traffic_plans"):
        op.drop_table(name)
