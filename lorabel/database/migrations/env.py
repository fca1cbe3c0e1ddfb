"""Alembic's entry point: runs the migrations on the connection that `Store.migrate` opened."""

from alembic import context
from sqlalchemy import Connection

from lorabel.database.tables import Table

connection: Connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Table.metadata, render_as_batch=True)
context.run_migrations()
