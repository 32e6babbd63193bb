"""Reports and states of dataset versions, deletion requests, indexes along which datasets and models are listed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from finmaas_platform.db.base import JsonType, UtcDateTime, WideInteger

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dataset_reports",
        sa.Column("version_id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("report", JsonType, nullable=False),
        sa.Column("index_digest", sa.String(), nullable=False),
        sa.Column("index_size", WideInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["dataset_versions.id"], name=op.f("fk_dataset_reports_version_id_dataset_versions")
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_dataset_reports_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_dataset_reports")),
    )
    op.create_table(
        "deletion_requests",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("found", JsonType, nullable=False),
        sa.Column("made", JsonType, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("approved_at", UtcDateTime(), nullable=True),
        sa.Column("approved_by", sa.String(), nullable=True),
        sa.Column("purged_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_deletion_requests_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deletion_requests")),
    )
    op.create_index(op.f("ix_deletion_requests_tenant_id"), "deletion_requests", ["tenant_id"], unique=False)
    with op.batch_alter_table("dataset_versions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("state", sa.String(), server_default="draft", nullable=False))
        batch_op.add_column(sa.Column("released_at", UtcDateTime(), nullable=True))
        batch_op.add_column(sa.Column("released_by", sa.String(), nullable=True))
    for table in ("datasets", "models"):
        op.create_index(f"ix_{table}_tenant_id_id", table, ["tenant_id", "id"], unique=False)
        op.create_index(f"ix_{table}_project_id_id", table, ["project_id", "id"], unique=False)
        op.drop_index(f"ix_{table}_tenant_id", table_name=table)
    op.create_index("ix_jobs_dataset_version_id", "jobs", ["dataset_version_id"], unique=False)
    op.create_index("ix_model_versions_dataset_version_id", "model_versions", ["dataset_version_id"], unique=False)
    op.create_index("ix_model_versions_base_version_id", "model_versions", ["base_version_id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_model_versions_base_version_id", table_name="model_versions")
    op.drop_index("ix_model_versions_dataset_version_id", table_name="model_versions")
    op.drop_index("ix_jobs_dataset_version_id", table_name="jobs")
    for table in ("models", "datasets"):
        op.create_index(f"ix_{table}_tenant_id", table, ["tenant_id"], unique=False)
        op.drop_index(f"ix_{table}_project_id_id", table_name=table)
        op.drop_index(f"ix_{table}_tenant_id_id", table_name=table)
    with op.batch_alter_table("dataset_versions", schema=None) as batch_op:
        batch_op.drop_column("released_by")
        batch_op.drop_column("released_at")
        batch_op.drop_column("state")
    op.drop_index(op.f("ix_deletion_requests_tenant_id"), table_name="deletion_requests")
    op.drop_table("deletion_requests")
    op.drop_table("dataset_reports")
