import pytest

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.errors import NotFoundError


def test_upsert_inserts_a_row_and_later_changes_only_the_columns_that_it_is_given(store: Store) -> None:
    projects.upsert(store, 1, label_config="<View/>", hostname="http://ls")
    projects.upsert(store, 1, hostname="http://other")
    with store.read() as session:
        project = projects.get(session, 1)
    assert (project.label_config, project.hostname) == ("<View/>", "http://other")


def test_upsert_writes_nothing_if_nothing_changed(store: Store) -> None:
    updated_at = projects.upsert(store, 1, hostname="http://ls").updated_at
    assert projects.upsert(store, 1, hostname="http://ls").updated_at == updated_at


def test_a_deleted_project_is_not_listed(store: Store) -> None:
    for project_id in (3, 1, 2):
        projects.upsert(store, project_id, is_deleted=project_id == 2)
    with store.read() as session:
        assert [project.id for project in projects.list_all(session)] == [1, 3]


def test_an_unknown_project_is_an_error_that_says_what_to_do(store: Store) -> None:
    with store.read() as session, pytest.raises(NotFoundError, match="project 4 is not known here; connect it"):
        projects.get(session, 4)
