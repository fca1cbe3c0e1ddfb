"""All tasks of a project are embedded by a bulk run, with a fake Label Studio and a fake model server."""

import pytest

from lorabel.database import bulk_runs, leases, projects, task_embeddings
from lorabel.database.store import Store
from lorabel.database.tables import BulkRun, BulkRunKind, RunState
from tests.backend import requests
from tests.backend.fake_model_server import FakeModelServer
from tests.lorabel.fake_label_studio import FakeLabelStudio
from tests.workers.conftest import NotedJobs, add_tasks
from workers import bulk_runs as worker_bulk_runs
from workers import index_tasks as indexing
from workers import retries
from workers.services import Services

# Three pages of 10 tasks, the last one not full.
NAMES = [f"{colour}-{number}" for number in range(8) for colour in ("red", "blue", "green")]


def request(store: Store) -> BulkRun:
    return bulk_runs.request(store, 1, "a test", kind=BulkRunKind.INDEX)


def index(store: Store, run: BulkRun | None = None) -> BulkRun:
    """Carry a run out, as a worker does."""
    run = run or request(store)
    indexing.index_tasks(run.id)
    with store.read() as session:
        return bulk_runs.get(session, 1, run.id)


def embedded(store: Store) -> set[int]:
    with store.read() as session:
        return set(task_embeddings.read_keys(session, 1, 0, None))


def pictures_of(model_server: FakeModelServer) -> list[str]:
    """Names of the pictures that were embedded since the last call."""
    urls = [row.input["contents"][0]["media"]["url"] for row in model_server.embedded]
    model_server.embedded.clear()
    return [url.rsplit("/", 1)[-1].removesuffix(".png") for url in urls]


def test_every_task_gets_a_vector_and_a_second_run_computes_none_again(
    services: Services, store: Store, label_studio: FakeLabelStudio, model_server: FakeModelServer
) -> None:
    add_tasks(label_studio, *NAMES)
    run = index(store)
    assert (run.state, run.error, run.total, run.cursor) == (RunState.FINISHED, None, 24, 24)
    assert (run.done, run.skipped, run.failed) == (24, 0, 0)
    assert embedded(store) == {*range(1, 25)}
    assert sorted(pictures_of(model_server)) == sorted(NAMES)
    again = index(store)
    assert (again.state, again.done, again.skipped) == (RunState.FINISHED, 1, 23)
    assert pictures_of(model_server) == [NAMES[0]], "the first tells which base model there is"


def test_changed_tasks_are_embedded_again_and_vectors_of_deleted_ones_removed(
    services: Services, store: Store, label_studio: FakeLabelStudio, model_server: FakeModelServer
) -> None:
    add_tasks(label_studio, *NAMES)
    index(store)
    pictures_of(model_server)
    label_studio.tasks[14]["data"]["image"] = "http://pictures.test/star.png"
    del label_studio.tasks[23], label_studio.tasks[3]
    run = index(store)
    assert (run.done, run.skipped, run.total) == (2, 20, 22)
    assert pictures_of(model_server) == [NAMES[0], "star"]
    assert embedded(store) == {*range(1, 25)} - {4, 24}


def test_tasks_that_cannot_be_read_are_failures_with_their_reasons(
    services: Services, store: Store, label_studio: FakeLabelStudio
) -> None:
    add_tasks(label_studio, "red", "broken", "forbidden", "blue")
    label_studio.tasks[3]["data"] = {"other": "no picture"}
    run = index(store)
    assert (run.state, run.done, run.skipped, run.failed) == (RunState.FINISHED, 1, 0, 3)
    reasons = {failure["task_id"]: failure["reason"] for failure in run.failures}
    assert reasons.keys() == {2, 3, 4}
    assert reasons[2] == "no picture" and "'image'" in reasons[4]


def test_an_empty_project_ends_the_run(services: Services, store: Store) -> None:
    run = index(store)
    assert (run.state, run.total, run.done) == (RunState.FINISHED, 0, 0)


def test_another_project_gets_its_turn_and_the_rest_follows(
    services: Services,
    store: Store,
    label_studio: FakeLabelStudio,
    model_server: FakeModelServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_bulk_runs, "TURN_S", 0.0)
    projects.upsert(store, 2, label_config=requests.CONFIG)
    add_tasks(label_studio, *NAMES)
    other = bulk_runs.request(store, 2, "another")
    run = index(store)
    assert (run.state, run.cursor, run.done, run.total) == (RunState.QUEUED, 10, 10, 24)
    assert isinstance(services.jobs, NotedJobs) and run.id in services.jobs.carried_out
    assert leases.claim(store, BulkRun, other.id) is not None
    run = index(store, run)
    assert (run.state, run.done, run.skipped) == (RunState.FINISHED, 24, 0)
    assert len(model_server.embedded) == 24


def test_a_cancelled_run_stops_before_its_next_page(
    services: Services, store: Store, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_tasks(label_studio, *NAMES)
    run, real = request(store), indexing.Indexing.keep_page

    def keep_and_cancel(self: indexing.Indexing, *arguments: object) -> bool:
        bulk_runs.cancel(store, 1, run.id)
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(indexing.Indexing, "keep_page", keep_and_cancel)
    assert index(store, run).state == RunState.CANCELLED
    assert embedded(store) == {*range(1, 11)}


def test_a_model_server_that_is_away_is_asked_again_and_then_ends_the_run(
    services: Services,
    store: Store,
    label_studio: FakeLabelStudio,
    model_server: FakeModelServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(retries, "sleep", pauses.append)
    add_tasks(label_studio, *NAMES)
    model_server.status = 500
    run = index(store)
    assert (run.state, len(pauses)) == (RunState.FAILED, retries.MOST_TRIES - 1)
    model_server.status = 200
    assert index(store).done == 24
