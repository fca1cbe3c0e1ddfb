"""Secrets of webhooks"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    with op.batch_alter_table("project", schema=None) as batch_op:
        batch_op.add_column(sa.Column("secret_hash", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("earlier_secret_hash", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("secret_enforced_at", sa.DateTime(timezone=True), nullable=True))
