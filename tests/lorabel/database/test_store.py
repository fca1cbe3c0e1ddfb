import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from lorabel.database.store import Store
from lorabel.database.tables import Table

NAMESPACE = 7


def test_the_migrations_make_the_schema_that_the_tables_describe(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def is_free(store: Store, number: int) -> bool:
    with store.claim(NAMESPACE, number) as is_ours:
        return is_ours


def test_a_claim_keeps_others_away_until_it_ends(store: Store) -> None:
    """On SQLite none."""
    with store.claim(NAMESPACE, 1) as is_ours:
        assert is_ours and is_free(store, 2)
        assert is_free(store, 1) == store.is_sqlite
    assert is_free(store, 1)


def test_claims_in_other_schemas_of_a_database_are_others(store: Store, request: pytest.FixtureRequest) -> None:
    """Another Lorabel may have them; its projects have the same numbers."""
    if store.is_sqlite:
        pytest.skip("a file has no schemas")
    other = Store(request.getfixturevalue("postgres_schema_of_test"))
    with store.claim(NAMESPACE, 1):
        assert is_free(other, 1)
    other.close()
