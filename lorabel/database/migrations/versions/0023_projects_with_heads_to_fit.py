"""An index of the projects whose heads are to be fitted"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0021"


def upgrade() -> None:
    # Not in a batch: on SQLite that would copy the table.
    op.create_index(
        "project_due",
        "project",
        ["updated_at", "id"],
        sqlite_where=sa.text(
            "is_deleted IS 0 AND label_config IS NOT NULL AND "
            "(annotation_revision != head_revision OR label_config IS NOT head_config)"
        ),
        postgresql_where=sa.text(
            "is_deleted IS false AND label_config IS NOT NULL AND "
            "(annotation_revision <> head_revision OR label_config IS DISTINCT FROM head_config)"
        ),
    )
