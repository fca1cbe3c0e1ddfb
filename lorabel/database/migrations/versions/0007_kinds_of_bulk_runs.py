"""Kinds of bulk runs, reports of label errors, and adapters that were removed"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    with op.batch_alter_table("bulk_run", schema=None) as batch_op:
        batch_op.add_column(sa.Column("kind", sa.String(), nullable=True))
    op.execute("UPDATE bulk_run SET kind = CASE WHEN strategy IS NULL THEN 'predictions' ELSE 'order' END")
    with op.batch_alter_table("bulk_run", schema=None) as batch_op:
        batch_op.alter_column("kind", existing_type=sa.String(), nullable=False)
    with op.batch_alter_table("model_version", schema=None) as batch_op:
        batch_op.add_column(sa.Column("adapters_removed_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "label_error_report",
        sa.Column("project_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("version_number", sa.Integer(), nullable=False),
        sa.Column("found_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("checked", sa.Integer(), nullable=False),
        sa.Column("found", sa.Integer(), nullable=False),
        sa.Column("errors", sa.JSON(), nullable=False),
        sa.Column("left_out", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"]),
        sa.PrimaryKeyConstraint("project_id"),
    )
