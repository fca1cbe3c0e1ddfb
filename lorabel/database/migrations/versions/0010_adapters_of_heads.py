"""Heads that are fitted on the features of an adapter, beside the base model's"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    with op.batch_alter_table("project_head", schema=None) as batch_op:
        batch_op.add_column(sa.Column("adapter", sa.String(), nullable=True))
