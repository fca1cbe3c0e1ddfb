from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from lorabel.database.store import Store
from lorabel.database.tables import Table


def test_the_migrations_make_the_schema_that_the_tables_describe(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []
