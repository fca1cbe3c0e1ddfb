import time
from dataclasses import replace
from typing import Any, cast

import pytest

from lorabel.database import bulk_runs, leases, task_embeddings
from lorabel.database.store import Store
from lorabel.database.tables import BulkRun, Project, RunState, UnreadableTask
from lorabel.inference.messages import Priority
from tests.backend.fake_answers import SURE
from tests.backend.fake_model_server import FakeModelServer
from tests.backend.test_label_studio_routes import add_version
from tests.lorabel.fake_label_studio import FakeLabelStudio
from tests.workers.conftest import NotedJobs, add_tasks
from workers import bulk_runs as worker_bulk_runs
from workers import preannotate, retries
from workers.bulk_runs import Pace
from workers.services import Services

pytestmark = [pytest.mark.slow, pytest.mark.servers]
NAMES = ["red", "blue"] * 30


def request(services: Services, **selection: Any) -> BulkRun:
    return bulk_runs.request(services.store, 1, "test", **selection)


def preannotate_tasks(services: Services, **selection: Any) -> BulkRun:
    """Request a run and carry it out, as a worker does."""
    preannotate.preannotate((run := request(services, **selection)).id)
    return reload(services, run)


def reload(services: Services, run: BulkRun) -> BulkRun:
    with services.store.read() as session:
        return bulk_runs.get(session, 1, run.id)


def counts(run: BulkRun) -> tuple[str, int, int, int]:
    return run.state, run.done, run.skipped, run.failed


def versions_of(label_studio: FakeLabelStudio) -> list[list[str]]:
    return [[prediction["model_version"] for prediction in task["predictions"]] for task in label_studio.tasks]


def choice(task: dict[str, Any]) -> str:
    return str(task["predictions"][-1]["result"][0]["value"]["choices"][0])


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nothing sleeps; these are the pauses in seconds, without those of 0 seconds."""
    seconds_slept: list[float] = []

    def note(seconds: float) -> None:
        if seconds > 0:
            seconds_slept.append(seconds)

    monkeypatch.setattr(worker_bulk_runs, "sleep", note)
    monkeypatch.setattr(retries, "sleep", note)
    return seconds_slept


def test_every_task_gets_one_right_prediction_of_the_live_version(
    services: Services, label_studio: FakeLabelStudio, model_server: FakeModelServer
) -> None:
    add_tasks(label_studio, *NAMES)
    run = preannotate_tasks(services)
    assert counts(run) == (RunState.FINISHED, 60, 0, 0)
    assert (run.total, run.cursor, run.version_number) == (60, 60, 0)
    assert versions_of(label_studio) == [["p1.v0"]] * 60
    assert [choice(task) for task in label_studio.tasks] == NAMES
    assert {task["predictions"][0]["score"] for task in label_studio.tasks} == {SURE}
    assert label_studio.import_sizes == [10] * 6
    assert run.started_at and run.finished_at
    assert 0 < run.label_studio_s < (run.finished_at - run.started_at).total_seconds()
    assert {(received.priority, received.project) for received in model_server.requests} == {(Priority.BULK, 1)}


def test_predicted_tasks_are_embedded_for_search_from_the_cache(
    services: Services, label_studio: FakeLabelStudio, model_server: FakeModelServer
) -> None:
    add_tasks(label_studio, *NAMES[:12], "broken")
    preannotate_tasks(services)
    with services.store.read() as session:
        assert task_embeddings.count_by_space(session, 1) == {model_server.space: 12}
    assert {row.adapter for row in model_server.embedded} == {None}
    assert all(row.input["is_cache_only"] for row in model_server.embedded)


def test_a_second_run_writes_nothing(services: Services, label_studio: FakeLabelStudio) -> None:
    add_tasks(label_studio, *NAMES)
    preannotate_tasks(services)
    assert counts(preannotate_tasks(services)) == (RunState.FINISHED, 0, 60, 0)
    assert versions_of(label_studio) == [["p1.v0"]] * 60


def test_predictions_of_other_versions_do_not_count_even_if_a_name_is_the_beginning_of_the_other(
    services: Services, label_studio: FakeLabelStudio, model_server: FakeModelServer
) -> None:
    add_tasks(label_studio, "red", "blue")
    label_studio.tasks[0]["predictions"].append({"id": 1, "model_version": "p1.v10"})
    add_version(cast(Any, services), 1)
    assert counts(preannotate_tasks(services)) == (RunState.FINISHED, 2, 0, 0)
    assert versions_of(label_studio) == [["p1.v10", "p1.v1"], ["p1.v1"]]
    assert {row.adapter for row in model_server.rows} == {"p1.v1/label"}


def test_tasks_with_an_annotation_are_left_out_unless_all_are_requested(
    services: Services, label_studio: FakeLabelStudio
) -> None:
    add_tasks(label_studio, *["red"] * 12)
    add_tasks(label_studio, *["blue"] * 12, first=13, annotations=1)
    assert counts(preannotate_tasks(services, only_unlabeled=True)) == (RunState.FINISHED, 12, 0, 0)
    assert counts(preannotate_tasks(services)) == (RunState.FINISHED, 12, 12, 0)


def test_only_the_requested_tasks_are_predicted_and_missing_ones_are_failures(
    services: Services, label_studio: FakeLabelStudio
) -> None:
    add_tasks(label_studio, *NAMES)
    run = preannotate_tasks(services, task_ids=[*range(30, 45), 999, 31])
    assert counts(run) == (RunState.FINISHED, 15, 0, 1)
    assert (run.total, run.failures) == (16, [{"task_id": 999, "reason": "the project has no such task"}])
    predicted = [i for i, versions in enumerate(versions_of(label_studio), start=1) if versions]
    assert predicted == list(range(30, 45))


class KilledError(BaseException):
    """Like SIGKILL: none of our code catches it."""


@pytest.mark.parametrize("is_written", [True, False])
def test_a_killed_run_continues_without_a_second_prediction(
    services: Services, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch, is_written: bool
) -> None:
    """The kill comes before a page's predictions are written, or between them and the cursor."""
    add_tasks(label_studio, *NAMES)
    run = request(services)
    real = preannotate._write

    def write_and_be_killed(*arguments: Any) -> None:
        if is_written:
            real(*arguments)
        if len(label_studio.import_sizes) == 2:
            raise KilledError
        if not is_written:
            real(*arguments)

    monkeypatch.setattr(preannotate, "_write", write_and_be_killed)
    with pytest.raises(KilledError):
        preannotate.preannotate(run.id)
    monkeypatch.setattr(preannotate, "_write", real)
    killed = reload(services, run)
    assert (killed.state, killed.cursor) == (RunState.RUNNING, 10 if is_written else 20)
    bulk_runs.requeue_killed(services.store, services.settings.model_copy(update={"run_lease_seconds": 0.0}))
    preannotate.preannotate(run.id)
    ended = reload(services, run)
    assert counts(ended) == (RunState.FINISHED, 50 if is_written else 60, 10 if is_written else 0, 0)
    assert (ended.attempt, ended.kills) == (2, 0)
    assert versions_of(label_studio) == [["p1.v0"]] * 60


def test_a_run_keeps_its_version_if_another_version_is_promoted(
    services: Services, label_studio: FakeLabelStudio, store: Store
) -> None:
    add_tasks(label_studio, *NAMES)
    run = request(services)
    run = leases.claim(store, BulkRun, run.id)
    assert run is not None
    leases.report(store, run, version_number=0, cursor=30)
    bulk_runs.release(store, run)
    add_version(cast(Any, services), 1)
    preannotate.preannotate(run.id)
    assert versions_of(label_studio) == [[]] * 30 + [["p1.v0"]] * 30


def test_unreadable_tasks_are_failures_and_the_others_are_predicted(
    services: Services, label_studio: FakeLabelStudio, store: Store
) -> None:
    add_tasks(label_studio, "red", "forbidden", "blue", "broken")
    run = preannotate_tasks(services)
    assert counts(run) == (RunState.FINISHED, 2, 0, 2)
    assert run.failures == [
        {"task_id": 2, "reason": "http://pictures.test/forbidden.png: 403"},
        {"task_id": 4, "reason": "http://pictures.test/broken.png: no picture"},
    ]
    # As with /predict, a task that can never be read gets an empty prediction, so it is not predicted again.
    assert versions_of(label_studio) == [["p1.v0"], [], ["p1.v0"], ["p1.v0"]]
    assert label_studio.tasks[3]["predictions"][0]["result"] == []
    with store.read() as session:
        assert [row.task_id for row in session.query(UnreadableTask).order_by(UnreadableTask.task_id)] == [2, 4]


@pytest.mark.usefixtures("pauses")
def test_a_task_that_was_corrected_gets_its_prediction_in_place_of_the_empty_one(
    services: Services, label_studio: FakeLabelStudio, store: Store
) -> None:
    add_tasks(label_studio, "red", "broken", "broken")
    preannotate_tasks(services)
    label_studio.tasks[1]["data"]["image"] = "http://pictures.test/blue.png"
    label_studio.delete_statuses = [500]
    run = preannotate_tasks(services)
    assert counts(run) == (RunState.FINISHED, 1, 1, 1)
    assert versions_of(label_studio) == [["p1.v0"], ["p1.v0"], ["p1.v0"]]
    assert choice(label_studio.tasks[1]) == "blue"
    assert label_studio.tasks[2]["predictions"][0]["result"] == []
    with store.read() as session:
        assert [row.task_id for row in session.query(UnreadableTask)] == [3]
    sizes = list(label_studio.import_sizes)
    assert counts(preannotate_tasks(services)) == (RunState.FINISHED, 0, 2, 1)
    assert label_studio.import_sizes == sizes


def test_only_the_first_failures_are_named(services: Services, label_studio: FakeLabelStudio) -> None:
    add_tasks(label_studio, *["forbidden"] * 130)
    run = preannotate_tasks(services)
    assert counts(run) == (RunState.FINISHED, 0, 0, 130)
    assert [failure["task_id"] for failure in run.failures] == list(range(1, 101))


def test_a_busy_model_server_is_asked_again_when_it_says(
    services: Services,
    label_studio: FakeLabelStudio,
    model_server: FakeModelServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_tasks(label_studio, *NAMES)
    model_server.status, model_server.fails_from = 503, 2
    pauses: list[float] = []

    def note(seconds: float) -> None:
        pauses.append(seconds)
        if pauses == [7.0] * 20:
            model_server.status = 200

    monkeypatch.setattr(retries, "sleep", note)
    assert counts(preannotate_tasks(services)) == (RunState.FINISHED, 60, 0, 0)
    assert pauses == [7.0] * 20
    assert versions_of(label_studio) == [["p1.v0"]] * 60


def test_a_model_server_that_stays_away_fails_the_run_and_a_new_run_continues(
    services: Services, label_studio: FakeLabelStudio, model_server: FakeModelServer, pauses: list[float]
) -> None:
    add_tasks(label_studio, *NAMES)
    model_server.status, model_server.fails_from = 500, 3
    failed = preannotate_tasks(services)
    assert counts(failed) == (RunState.FAILED, 30, 0, 0)
    assert "model server answered 500" in str(failed.error)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    model_server.status = 200
    assert counts(preannotate_tasks(services)) == (RunState.FINISHED, 30, 30, 0)


def test_late_tasks_are_predicted_again_and_the_others_are_written_at_once(
    services: Services,
    label_studio: FakeLabelStudio,
    model_server: FakeModelServer,
    pauses: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A page has two requests; the second fails at first."""
    monkeypatch.setattr("lorabel.inference.requests.ROWS_PER_REQUEST", 6)
    add_tasks(label_studio, *NAMES[:10])
    model_server.status, model_server.fails_from = 500, 1
    real = preannotate._write

    def write(*arguments: Any) -> None:
        real(*arguments)
        model_server.status = 200

    monkeypatch.setattr(preannotate, "_write", write)
    assert counts(preannotate_tasks(services)) == (RunState.FINISHED, 10, 0, 0)
    assert label_studio.import_sizes == [6, 4]
    assert pauses == [1.0]


def test_a_page_that_is_tried_again_is_not_written_twice_if_heads_began_to_answer_meanwhile(
    services: Services,
    store: Store,
    label_studio: FakeLabelStudio,
    model_server: FakeModelServer,
    pauses: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lorabel.inference.requests.ROWS_PER_REQUEST", 6)
    add_tasks(label_studio, *NAMES[:10])
    model_server.status, model_server.fails_from = 500, 1
    real = preannotate._read_page

    def read_page(*arguments: Any) -> Any:
        with store.write() as session:
            project = session.get_one(Project, 1)
            project.head_number, project.head_config = 1, project.label_config
        model_server.status = 200 if label_studio.import_sizes else 500
        return real(*arguments)

    monkeypatch.setattr(preannotate, "_read_page", read_page)
    assert counts(preannotate_tasks(services)) == (RunState.FINISHED, 10, 0, 0)
    assert versions_of(label_studio) == [["p1.v0.h1"]] * 10


def test_a_request_to_label_studio_is_repeated_after_an_error(
    services: Services, label_studio: FakeLabelStudio, pauses: list[float]
) -> None:
    add_tasks(label_studio, *NAMES)
    label_studio.import_statuses = [500, 400, 502]
    assert counts(preannotate_tasks(services)) == (RunState.FINISHED, 60, 0, 0)
    assert versions_of(label_studio) == [["p1.v0"]] * 60
    assert pauses == [1.0, 2.0, 4.0]


def test_a_refusal_ends_the_run_at_once(
    services: Services, label_studio: FakeLabelStudio, pauses: list[float]
) -> None:
    add_tasks(label_studio, "red")
    label_studio.import_statuses = [403]
    run = preannotate_tasks(services)
    assert (run.state, pauses) == (RunState.FAILED, [])
    assert "answered 403: no" in str(run.error)


def test_a_label_config_that_is_not_served_fails_the_run(services: Services, store: Store) -> None:
    with store.write() as session:
        session.get_one(Project, 1).label_config = '<View><Text name="t" value="$t"/></View>'
    run = preannotate_tasks(services)
    assert run.state == RunState.FAILED
    assert "no control tag of project 1's label config is served" in str(run.error)


def test_a_cancelled_run_writes_no_more(
    services: Services, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_tasks(label_studio, *NAMES)
    run = request(services)
    real = preannotate._write

    def cancel(*arguments: Any) -> None:
        if len(label_studio.import_sizes) == 2:
            bulk_runs.cancel(services.store, 1, run.id)
        real(*arguments)

    monkeypatch.setattr(preannotate, "_write", cancel)
    preannotate.preannotate(run.id)
    assert counts(reload(services, run)) == (RunState.CANCELLED, 20, 0, 0)
    assert label_studio.import_sizes == [10, 10]


def test_a_run_gives_its_turn_to_a_waiting_run_after_a_while(
    services: Services, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_tasks(label_studio, *NAMES)
    monkeypatch.setattr(worker_bulk_runs, "TURN_S", 0.0)
    long = request(services)
    short = request(services, task_ids=[60])
    assert short.id == long.id, "the long run has task 60 too and has not started"
    run = leases.claim(services.store, BulkRun, long.id)
    assert run is not None
    leases.report(services.store, run, cursor=10, done=10)
    short = request(services, task_ids=[60])
    bulk_runs.release(services.store, run)
    preannotate.preannotate(long.id)
    assert (reload(services, long).state, reload(services, long).cursor) == (RunState.QUEUED, 20)
    assert cast(NotedJobs, services.jobs).carried_out == [long.id, short.id]
    for run in (short, short, long):
        preannotate.preannotate(run.id)
    assert counts(reload(services, short)) == (RunState.FINISHED, 1, 0, 0)
    assert counts(reload(services, long)) == (RunState.FINISHED, 59, 1, 0)


def test_a_second_job_for_the_same_run_does_nothing(services: Services, label_studio: FakeLabelStudio) -> None:
    add_tasks(label_studio, "red")
    run = preannotate_tasks(services)
    preannotate.preannotate(run.id)
    assert label_studio.import_sizes == [1]


def test_label_studio_gets_no_more_requests_per_second_than_the_setting(
    services: Services, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = replace(
        services, settings=services.settings.model_copy(update={"label_studio_requests_per_second": 20.0})
    )
    monkeypatch.setattr(Services, "current", lambda: slow)
    add_tasks(label_studio, *NAMES)
    started = time.monotonic()
    preannotate_tasks(slow)
    # Six pages are read and written, and one more is read.
    assert time.monotonic() - started >= 12 / 20


def test_the_first_request_does_not_wait(pauses: list[float]) -> None:
    pace = Pace(per_second=0.1)
    with pace.request():
        assert pauses == []
    with pace.request():
        assert pauses == [pytest.approx(10.0, abs=0.5)]
