from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from lorabel.database import bulk_runs
from lorabel.database.store import Store
from lorabel.database.tables import Table
from lorabel.settings import Settings
from tests.lorabel.database.test_migrations import MIGRATIONS


def test_the_migrations_make_the_schema_that_the_tables_describe(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_bulk_runs_of_an_older_version_get_their_kind(settings: Settings) -> None:
    store = Store(f"sqlite:///{settings.data_dir / 'older.db'}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    columns = "project_id, state, reason, only_unlabeled, strategy, cursor, done, skipped, failed, failures"
    columns += ", label_studio_s, attempt, kills, created_at"
    with store.engine.connect() as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        connection.exec_driver_sql(
            "INSERT INTO project (id, live_number, is_deleted, created_at, updated_at) VALUES (1, 0, 0, 0, 0)"
        )
        for strategy in ("NULL", "'margin'"):
            values = f"1, 'finished', 'test', 1, {strategy}, 9, 5, 0, 0, '[]', 0, 1, 0, '2026-01-02 03:04:05'"
            connection.exec_driver_sql(f"INSERT INTO bulk_run ({columns}) VALUES ({values})")
    store.migrate()
    with store.read() as session:
        runs = bulk_runs.list_of(session, 1)
    assert [(run.kind, run.strategy, run.done) for run in runs] == [
        ("order", "margin", 5),
        ("predictions", None, 5),
    ]
    store.close()
