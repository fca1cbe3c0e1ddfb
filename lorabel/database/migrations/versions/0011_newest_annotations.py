"""An index of the newest annotations, from which heads are fitted after each annotation"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    columns = ("project_id", "updated_at", "id", "task_id", "times_applied", "received_at")
    op.create_index(
        "annotation_newest",
        "annotation",
        [*columns, "run_id", "is_deleted", "was_cancelled"],
        sqlite_where=sa.text("task_id IS NOT NULL AND is_deleted IS 0 AND was_cancelled IS 0"),
        postgresql_where=sa.text("task_id IS NOT NULL AND is_deleted IS false AND was_cancelled IS false"),
    )
