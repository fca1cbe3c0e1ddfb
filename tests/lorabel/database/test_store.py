from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from lorabel.database.store import Store
from lorabel.database.tables import Table


def test_the_migrations_lead_to_the_tables_of_the_code(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []
