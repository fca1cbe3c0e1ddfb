"""A query past SQLAlchemy has the same rows, and the same errors, as one of SQLAlchemy's."""

import pytest
from sqlalchemy import bindparam, column, create_engine, select, table
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import QueuePool

from lorabel.database import projects
from lorabel.database.plain_query import PlainQuery
from lorabel.database.store import Store
from lorabel.database.tables import Project

COLUMNS = Project.__table__.c
BY_ID = select(COLUMNS.id, COLUMNS.label_config).where(COLUMNS.id == bindparam("project_id"))


def connections_in_use(store: Store) -> int:
    assert isinstance(store.engine.pool, QueuePool)
    return store.engine.pool.checkedout()


def test_rows_are_those_of_the_database_now(store: Store) -> None:
    query = PlainQuery(store.engine, BY_ID)
    assert query.rows(project_id=1) == []
    for config in ("<View/>", "<View> </View>"):
        projects.upsert(store, 1, label_config=config)
        assert query.rows(project_id=1) == [(1, config)]
        assert query.rows(project_id=2) == []
    assert connections_in_use(store) == 0


def test_a_query_that_fails_raises_what_others_raise_and_keeps_no_connection(store: Store) -> None:
    query = PlainQuery(store.engine, select(column("x")).select_from(table("no_such_table")))
    for _ in range(2):
        with pytest.raises(DBAPIError, match="no_such_table"):
            query.rows()
    assert connections_in_use(store) == 0
    assert PlainQuery(store.engine, BY_ID).rows(project_id=1) == []


@pytest.mark.parametrize("url", ["sqlite:////proc/no/such/folder/x.db", "postgresql+psycopg://u:p@127.0.0.1:1/x"])
def test_a_database_that_cannot_be_reached_raises_what_others_raise(url: str) -> None:
    with pytest.raises(OperationalError):
        PlainQuery(create_engine(url), BY_ID).rows(project_id=1)
