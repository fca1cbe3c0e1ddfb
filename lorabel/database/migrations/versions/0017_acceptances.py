"""Acceptances: what cases prove about predictions, and the annotations that were written for it"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.create_table(
        "acceptance",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("undo_run_id", sa.Integer(), nullable=True),
        sa.Column("precision", sa.Double(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.Column("is_together", sa.Boolean(), nullable=False),
        sa.Column("is_written", sa.Boolean(), nullable=False),
        sa.Column("user_email", sa.String(), nullable=True),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("writer_id", sa.Integer(), nullable=True),
        sa.Column("version", sa.String(), nullable=True),
        sa.Column("cases_from", sa.String(), nullable=True),
        sa.Column("labels", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("warnings", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_acceptance_project_id_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_acceptance")),
    )
    with op.batch_alter_table("acceptance", schema=None) as batch_op:
        batch_op.create_index("acceptance_project", ["project_id"], unique=False)
        batch_op.create_index("acceptance_run", ["run_id"], unique=False)
    op.create_table(
        "accepted_task",
        sa.Column("acceptance_id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.BigInteger(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("annotation_id", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["acceptance_id"], ["acceptance.id"], name=op.f("fk_accepted_task_acceptance_id_acceptance")
        ),
        sa.PrimaryKeyConstraint("acceptance_id", "task_id", name=op.f("pk_accepted_task")),
    )
    with op.batch_alter_table("accepted_task", schema=None) as batch_op:
        batch_op.create_index("accepted_task_of_project", ["project_id", "task_id"], unique=False)
