"""Which row of a project a request finds; the numbers are those of the recorded requests."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from lorabel.database import projects
from lorabel.database.project_keys import LabelStudioId, ProjectKey
from lorabel.database.projects import FIRST_OWN_ID
from lorabel.database.store import Store
from lorabel.database.tables import Project
from lorabel.errors import ConflictError, NotFoundError

HERE, THERE = "http://labels.example.com", "http://other.example.com"
CREATED = datetime(2026, 11, 22, 5, 12, 1, 772489, UTC)
IN_SECONDS = CREATED.replace(microsecond=0)
LATER = CREATED + timedelta(days=3)


def key(created_at: datetime | None, hostname: str | None = None, url: str | None = None) -> ProjectKey:
    return ProjectKey(LabelStudioId(1), created_at, hostname, url)


def found(store: Store, wanted: ProjectKey) -> int | None:
    with store.read() as session:
        project = projects.find(session, wanted)
        return project.id if project else None


def listed(store: Store) -> list[int]:
    with store.read() as session:
        return [project.id for project in projects.list_all(session)]


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
    assert listed(store) == [1, 3]


def test_an_unknown_project_is_an_error_that_says_what_to_do(store: Store) -> None:
    with store.read() as session, pytest.raises(NotFoundError, match="project 4 is not known here; connect it"):
        projects.get(session, 4)


@pytest.mark.parametrize(
    ("text", "created_at"),
    [("12.1795324321", datetime(2026, 11, 22, 5, 12, 1, tzinfo=UTC)), ("12", None), ("12.", None)],
)
def test_the_key_of_setup_and_predict_is_read(text: str, created_at: datetime | None) -> None:
    assert ProjectKey.parse(text, HERE) == ProjectKey(LabelStudioId(12), created_at, HERE)


@pytest.mark.parametrize("text", ["", ".1", "x.1795324321", "12.x", "12.-1", "12.²", "12.1.1", f"12.{'9' * 30}"])
def test_a_key_that_label_studio_never_sends_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no project|no time"):
        ProjectKey.parse(text)


def test_a_project_keeps_label_studios_number_and_is_found_by_every_kind_of_request(store: Store) -> None:
    assert projects.resolve(store, key(IN_SECONDS, HERE)).id == 1
    assert projects.resolve(store, key(CREATED)).id == 1
    assert projects.resolve(store, key(IN_SECONDS)).id == 1
    assert projects.resolve(store, key(CREATED, url="http://127.0.0.1:8080")).id == 1
    assert projects.resolve(store, key(IN_SECONDS, THERE)).id == 1  # LABEL_STUDIO_HOST was changed
    project = projects.resolve(store, key(None))
    assert (project.id, project.label_studio_id, project.label_studio_created_at) == (1, 1, CREATED)
    assert (project.hostname, project.label_studio_url) == (THERE, "http://127.0.0.1:8080")


def test_a_known_project_is_only_read(store: Store) -> None:
    updated_at = projects.resolve(store, key(CREATED, HERE)).updated_at
    assert projects.resolve(store, key(IN_SECONDS, HERE)).updated_at == updated_at


@pytest.mark.parametrize("hostname", [HERE, THERE, "http://localhost:8080", None])
def test_a_project_of_another_time_with_a_number_that_is_taken_gets_an_own_id(
    store: Store, hostname: str | None
) -> None:
    projects.resolve(store, key(CREATED, HERE))
    second = projects.resolve(store, key(LATER, hostname))
    third = projects.resolve(store, key(LATER + timedelta(days=1)))
    assert (second.id, third.id) == (FIRST_OWN_ID, FIRST_OWN_ID + 1)
    assert (second.label_studio_id, second.live_version) == (1, f"p{FIRST_OWN_ID}.v0")
    assert [found(store, key(time)) for time in (CREATED, LATER)] == [1, FIRST_OWN_ID]
    assert listed(store) == [1, FIRST_OWN_ID, FIRST_OWN_ID + 1]


def test_a_label_studio_project_with_a_number_like_our_own_is_told_apart_too(store: Store) -> None:
    projects.resolve(store, key(CREATED))
    assert projects.resolve(store, key(LATER)).id == FIRST_OWN_ID
    large = ProjectKey(LabelStudioId(FIRST_OWN_ID), CREATED)
    assert projects.resolve(store, large).id == FIRST_OWN_ID + 1
    assert projects.resolve(store, large).label_studio_id == FIRST_OWN_ID


@pytest.mark.parametrize(
    "first",
    [key(IN_SECONDS, HERE), key(CREATED), key(IN_SECONDS), key(CREATED, url=HERE)],
    ids=["setup", "event", "predict", "connect"],
)
def test_a_row_of_an_older_version_is_adopted_by_the_first_request(store: Store, first: ProjectKey) -> None:
    projects.upsert(store, 1, hostname=HERE, live_number=3)
    adopted = projects.resolve(store, first)
    assert (adopted.live_version, adopted.label_studio_created_at) == ("p1.v3", first.created_at)
    assert projects.resolve(store, key(LATER, HERE)).live_version == f"p{FIRST_OWN_ID}.v0"


@pytest.mark.parametrize("columns", [{"hostname": HERE}, {"label_studio_url": HERE}])
def test_a_row_of_an_older_version_is_not_adopted_by_another_label_studio(
    store: Store, columns: dict[str, str]
) -> None:
    projects.upsert(store, 1, live_number=3, **columns)
    other = key(LATER, THERE) if "hostname" in columns else key(LATER, url=THERE)
    assert projects.resolve(store, other).live_version == f"p{FIRST_OWN_ID}.v0"
    assert projects.resolve(store, key(CREATED, f"{HERE}/")).live_version == "p1.v3"


def test_a_request_without_creation_time_finds_the_project_that_was_not_deleted(store: Store) -> None:
    projects.resolve(store, key(CREATED))
    second = projects.resolve(store, key(LATER))
    projects.upsert(store, 1, is_deleted=True)
    assert found(store, key(None)) == second.id


def test_a_request_that_fits_two_projects_is_refused_with_both(store: Store) -> None:
    projects.resolve(store, key(CREATED, HERE))
    projects.resolve(store, key(LATER, THERE))
    with pytest.raises(ConflictError, match=f"fits the projects 1 and {FIRST_OWN_ID} here"):
        projects.resolve(store, key(None))
    assert found(store, key(None, THERE)) == FIRST_OWN_ID


def test_two_projects_of_the_same_second_are_refused_since_predict_could_not_tell_them_apart(store: Store) -> None:
    projects.resolve(store, key(CREATED, HERE))
    with pytest.raises(ConflictError, match="created in the same second as project 1 here"):
        projects.resolve(store, key(CREATED + timedelta(microseconds=1)))
    assert listed(store) == [1]


def test_a_reset_label_studio_replaces_its_old_project_and_no_other(store: Store) -> None:
    projects.resolve(store, key(CREATED, url=HERE))
    projects.resolve(store, key(CREATED + timedelta(days=1), url=THERE))
    fresh = projects.resolve(store, key(LATER, url=HERE))
    assert [project.id for project in projects.mark_replaced(store, fresh)] == [1]
    assert listed(store) == [FIRST_OWN_ID, FIRST_OWN_ID + 1]
    assert projects.mark_replaced(store, fresh) == []


@pytest.mark.parametrize(
    "make_key", [lambda number: key(CREATED), lambda number: key(CREATED + timedelta(days=number))]
)
def test_requests_at_the_same_time_insert_each_project_once(
    store: Store, make_key: Callable[[int], ProjectKey]
) -> None:
    keys = [make_key(number % 4) for number in range(16)]
    with ThreadPoolExecutor(16) as threads:
        ids = list(threads.map(lambda wanted: projects.resolve(store, wanted).id, keys))
    with store.read() as session:
        assert session.scalar(select(func.count(Project.id))) == len(set(keys))
    assert [found(store, wanted) for wanted in keys] == ids
