"""Losses of training runs, and indexes for what pages count and list"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    with op.batch_alter_table("training_run", schema=None) as batch_op:
        batch_op.add_column(sa.Column("losses", sa.JSON(), nullable=True))
    op.create_index("training_run_state", "training_run", ["state"])
    op.create_index("training_run_project", "training_run", ["project_id", "id"])
    op.create_index("bulk_run_project", "bulk_run", ["project_id", "id"])
    op.create_index("annotation_received", "annotation", ["received_at", "project_id", "is_deleted"])
    is_shown = "is_accepted IS NOT NULL AND prediction_version IS NOT NULL AND is_deleted IS"
    op.create_index(
        "annotation_shown",
        "annotation",
        ["project_id", "prediction_version", "is_accepted", "is_deleted"],
        sqlite_where=sa.text(f"{is_shown} 0"),
        postgresql_where=sa.text(f"{is_shown} false"),
    )
