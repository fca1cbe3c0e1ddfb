"""Bounded runs"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    with op.batch_alter_table("project", schema=None) as batch_op:
        batch_op.add_column(sa.Column("compared_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("compared_fully_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("uncounted", sa.Integer(), nullable=True))
    with op.batch_alter_table("annotation", schema=None) as batch_op:
        batch_op.add_column(sa.Column("tries", sa.Integer(), nullable=False, server_default="0"))
        batch_op.drop_index("ix_annotation_task_id")
        batch_op.create_index("annotation_task", ["project_id", "task_id"])
    _create_index("annotation_new", ["project_id", "tries", "received_at", "id"], "run_id IS NULL")
    _create_index("annotation_learned", ["project_id", "id", "task_id"], "run_id IS NOT NULL")


def _create_index(name: str, columns: list[str], condition: str) -> None:
    op.create_index(
        name,
        "annotation",
        [*columns, "run_id", "is_deleted", "was_cancelled"],
        sqlite_where=sa.text(f"{condition} AND is_deleted IS 0 AND was_cancelled IS 0"),
        postgresql_where=sa.text(f"{condition} AND is_deleted IS false AND was_cancelled IS false"),
    )
