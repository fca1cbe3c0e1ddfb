"""Tests that what is kept of a project is as new as the database, which other processes change, too."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event

from backend.live_projects import LiveProjects
from lorabel.database import project_heads, projects, versions
from lorabel.database.project_keys import LabelStudioId, ProjectKey
from lorabel.database.store import Store
from lorabel.database.tables import ModelVersion, ProjectHead, UnreadableTask, now
from lorabel.errors import ConflictError
from lorabel.settings import Settings
from tests.backend.requests import CONFIG

KEY = ProjectKey(LabelStudioId(1))


@pytest.fixture
def other_process(settings: Settings) -> Iterator[Store]:
    """Another connection to the same database, as the workers have it."""
    store = Store.open(settings)
    yield store
    store.close()


@pytest.fixture
def live(store: Store, settings: Settings) -> LiveProjects:
    projects.upsert(store, 1, label_config=CONFIG)
    return LiveProjects(store, settings)


@pytest.fixture
def statements(store: Store) -> Iterator[list[str]]:
    executed: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT"):
            executed.append(statement)

    event.listen(store.engine, "before_cursor_execute", note)
    yield executed
    event.remove(store.engine, "before_cursor_execute", note)


def add_version(store: Store, number: int, **columns: Any) -> None:
    with store.write() as session:
        adapters = {"label": f"p1.v{number}/label"}
        row = {
            "state": "candidate",
            "adapters": adapters,
            "metrics": {},
            "trained_on": [],
            "parent": 0,
            "base_models": {},
            **columns,
        }
        session.add(ModelVersion(project_id=1, number=number, **row))


def make_live(store: Store, number: int) -> None:
    with store.write() as session:
        versions.make_live(session, projects.get(session, 1, is_locked=True), number)


def test_of_an_unchanged_project_only_its_stamps_are_read(live: LiveProjects, statements: list[str]) -> None:
    first = live.get(KEY, CONFIG)
    del statements[:]
    second = live.get(KEY, CONFIG)
    assert second.model is first.model
    # The plain query of the stamps goes past SQLAlchemy.
    assert statements == []


def test_a_promotion_and_a_rollback_in_another_process_are_seen_by_the_next_request(
    live: LiveProjects, other_process: Store
) -> None:
    assert live.get(KEY, CONFIG).model.version == "p1.v0"
    add_version(other_process, 1)
    assert live.get(KEY, CONFIG).model.adapters == {}
    make_live(other_process, 1)
    promoted = live.get(KEY, CONFIG).model
    assert (promoted.version, promoted.adapters) == ("p1.v1", {"label": "p1.v1/label"})
    make_live(other_process, 0)
    assert live.get(KEY, CONFIG).model.version == "p1.v0"


def test_heads_that_another_process_has_fitted_answer_the_next_request(
    live: LiveProjects, other_process: Store
) -> None:
    for number in (1, 2):
        live.get(KEY, CONFIG)
        with other_process.write() as session:
            project = projects.get(session, 1, is_locked=True)
            head = ProjectHead(
                project_id=1,
                from_name="label",
                folder=f"p1.h{number}",
                labels="digest",
                digest="digest",
                annotation_ids=[1],
                fitted_at=now(),
            )
            project_heads.replace(session, project, {"label": head}, number)
            project.head_config = CONFIG
        assert live.get(KEY, CONFIG).model.heads["label"].name == f"p1.h{number}/label"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [({"extra_params": {"detector_threshold": 0.4}}, 0.4), ({"hostname": "http://x"}, None)],
)
def test_a_change_of_the_projects_row_is_seen(
    live: LiveProjects, other_process: Store, columns: dict[str, Any], expected: float | None
) -> None:
    live.get(KEY, CONFIG)
    projects.upsert(other_process, 1, **columns)
    found = live.get(KEY, CONFIG)
    assert found.model.threshold == expected
    assert all(getattr(found.project, name) == value for name, value in columns.items())


def test_a_label_config_that_another_process_stored_is_replaced_by_that_of_the_request(
    live: LiveProjects, other_process: Store
) -> None:
    live.get(KEY, CONFIG)
    projects.upsert(other_process, 1, label_config=CONFIG.replace("blue", "green"))
    assert live.get(KEY, CONFIG).project.label_config == CONFIG
    with other_process.read() as session:
        assert projects.get(session, 1).label_config == CONFIG


def test_tasks_that_could_not_be_read_are_read_anew_for_each_request(
    live: LiveProjects, other_process: Store
) -> None:
    assert live.get(KEY, CONFIG).unreadable_task_ids == frozenset()
    with other_process.write() as session:
        session.add(UnreadableTask(project_id=1, task_id=7, reason="gone", is_permanent=True, seen_at=now()))
    assert live.get(KEY, CONFIG).unreadable_task_ids == {7}


def test_another_project_that_fits_the_key_is_seen(live: LiveProjects, other_process: Store) -> None:
    live.get(KEY, CONFIG)
    projects.upsert(other_process, 1_000_000, label_studio_id=1, label_config=CONFIG)
    with pytest.raises(ConflictError, match="fits the projects"):
        live.get(KEY, CONFIG)


def test_a_project_that_is_new_is_inserted(store: Store, settings: Settings) -> None:
    found = LiveProjects(store, settings).get(ProjectKey(LabelStudioId(5)), CONFIG)
    assert (found.project.id, found.model.version) == (5, "p5.v0")


def test_tasks_are_looked_ahead_at_if_there_is_a_token(live: LiveProjects, store: Store) -> None:
    assert live.looked_ahead(KEY, CONFIG) is None, "nothing was asked yet"
    live.get(KEY, CONFIG)
    assert live.looked_ahead(KEY, CONFIG) is None, "there is no token"
    projects.upsert(store, 1, label_studio_url="http://label-studio.test", api_key="key")
    live.get(KEY, CONFIG)
    found = live.looked_ahead(KEY, CONFIG)
    assert found is not None and found.id == 1
