"""Identity of projects: id and creation time in Label Studio; annotations and deleted tasks belong to a project"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

ANNOTATION = sa.Table(
    "annotation",
    sa.MetaData(),
    sa.Column("project_id", sa.Integer(), autoincrement=False, nullable=False),
    sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column("task_id", sa.BigInteger(), nullable=True),
    sa.Column("task_data", sa.JSON(), nullable=True),
    sa.Column("result", sa.JSON(), nullable=True),
    sa.Column("was_cancelled", sa.Boolean(), nullable=False),
    sa.Column("ground_truth", sa.Boolean(), nullable=False),
    sa.Column("completed_by", sa.Integer(), nullable=True),
    sa.Column("updated_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("is_deleted", sa.Boolean(), nullable=False),
    sa.Column("run_id", sa.Integer(), nullable=True),
    sa.Column("times_applied", sa.Integer(), nullable=False),
    sa.PrimaryKeyConstraint("project_id", "id"),
    sa.Index("ix_annotation_task_id", "task_id"),
)
DELETED_TASK = sa.Table(
    "deleted_task",
    sa.MetaData(),
    sa.Column("project_id", sa.Integer(), autoincrement=False, nullable=False),
    sa.Column("task_id", sa.BigInteger(), autoincrement=False, nullable=False),
    sa.PrimaryKeyConstraint("project_id", "task_id"),
)


def upgrade() -> None:
    # The table `project` is not made anew, since other tables refer to its rows. So SQLite keeps the default 0.
    op.add_column("project", sa.Column("label_studio_id", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("project", sa.Column("label_studio_created_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE project SET label_studio_id = id")
    if not _is_sqlite():
        op.alter_column("project", "label_studio_id", server_default=None)
    op.create_index("ix_project_label_studio_id", "project", ["label_studio_id"])
    op.drop_index("ix_annotation_project_id", "annotation")
    for table in (ANNOTATION, DELETED_TASK):
        _change_primary_key(table)


def _is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _change_primary_key(table: sa.Table) -> None:
    """Give a table the primary key that `table` has. SQLite cannot change it, so its table is made anew."""
    if _is_sqlite():
        with op.batch_alter_table(table.name, copy_from=table, recreate="always"):
            pass
        return
    op.drop_constraint(f"{table.name}_pkey", table.name, type_="primary")
    op.create_primary_key(f"{table.name}_pkey", table.name, [column.name for column in table.primary_key])
