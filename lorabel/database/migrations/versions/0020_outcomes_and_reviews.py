"""What versions answered to the tasks that they were judged on, and samples of acceptances for review"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.create_table(
        "task_outcome",
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("from_name", sa.String(), nullable=False),
        sa.Column("task_id", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("live_value", sa.Double(), nullable=True),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("live_result", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("project_id", "number", "from_name", "task_id", name=op.f("pk_task_outcome")),
    )
    with op.batch_alter_table("task_outcome", schema=None) as batch_op:
        batch_op.create_index("task_outcome_of_task", ["project_id", "task_id"], unique=False)
    with op.batch_alter_table("acceptance", schema=None) as batch_op:
        batch_op.add_column(sa.Column("review_size", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("tab_id", sa.BigInteger(), nullable=True))
    with op.batch_alter_table("accepted_task", schema=None) as batch_op:
        batch_op.add_column(sa.Column("score", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("is_sampled", sa.Boolean(), server_default=sa.false(), nullable=False))
