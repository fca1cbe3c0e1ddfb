"""Tokens that were stored as plain text are encrypted"""

import sqlalchemy as sa
from alembic import context, op

from lorabel.secret_keys import Keyring, is_sealed

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    keyring: Keyring = context.config.attributes["keyring"]
    project = sa.table("project", sa.column("id"), sa.column("api_key"), sa.column("setup_token"))
    connection = op.get_bind()
    for row in connection.execute(sa.select(project)).mappings().all():
        plain = {name: row[name] for name in ("api_key", "setup_token") if row[name] and not is_sealed(row[name])}
        if plain:
            sealed = {name: keyring.seal(token) for name, token in plain.items()}
            connection.execute(sa.update(project).where(project.c.id == row["id"]).values(**sealed))
            context.config.attributes["has_sealed"] = True
