"""Heads that are fitted after every annotation"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "task_features",
        sa.Column("project_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("from_name", sa.String(), nullable=False),
        sa.Column("task_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("question", sa.String(), nullable=False),
        sa.Column("space", sa.String(), nullable=False),
        sa.Column("dim", sa.Integer(), nullable=False),
        sa.Column("features", sa.LargeBinary(), nullable=False),
        sa.Column("logits", sa.LargeBinary(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("written_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "from_name", "task_id"),
    )
    op.create_table(
        "project_head",
        sa.Column("project_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("from_name", sa.String(), nullable=False),
        sa.Column("folder", sa.String(), nullable=False),
        sa.Column("labels", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("annotation_ids", sa.JSON(), nullable=False),
        sa.Column("fitted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "from_name"),
    )
    # Projects that have annotations already get their heads at the first sweep: their revisions differ.
    with op.batch_alter_table("project", schema=None) as batch_op:
        batch_op.add_column(sa.Column("annotation_revision", sa.Integer(), server_default="1", nullable=False))
        batch_op.add_column(sa.Column("head_revision", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("head_number", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("head_config", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("heads_restored_at", sa.DateTime(timezone=True), nullable=True))
