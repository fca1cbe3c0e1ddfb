"""Label errors are looked for with a model server that answers over a real socket, from the pictures' names."""

from typing import Any

import pytest

from lorabel.curation.label_errors import UNSUITED
from lorabel.database import bulk_runs, label_error_reports, leases, projects, task_embeddings
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, BulkRun, BulkRunKind, LabelErrorReport, RunState
from tests.backend.fake_model_server import FakeModelServer
from workers import bulk_runs as worker_bulk_runs
from workers import label_errors, retries
from workers.services import Services

# What the pictures of the tasks 1, 2, ... show, and which label their annotations give: that of task 25 is wrong.
PICTURES = [("red", "red"), ("blue", "blue")] * 12 + [("red", "blue")]


def annotate(store: Store, *pictures: tuple[str, str]) -> None:
    with store.write() as session:
        for number, (shown, given) in enumerate(pictures, start=1):
            choices = {"from_name": "label", "type": "choices", "value": {"choices": [given]}}
            data = {"image": f"http://pictures.test/{shown}{number}.png"}
            session.add(
                Annotation(id=100 + number, project_id=1, task_id=number, task_data=data, result=[choices])
            )


def request(services: Services) -> BulkRun:
    return bulk_runs.request(services.store, 1, "test", kind=BulkRunKind.LABEL_ERRORS)


def find(services: Services, run: BulkRun | None = None) -> BulkRun:
    """Carry a run out, as a worker does."""
    run = run or request(services)
    label_errors.find_label_errors(run.id)
    with services.store.read() as session:
        return bulk_runs.get(session, 1, run.id)


def report_of(services: Services) -> LabelErrorReport | None:
    with services.store.read() as session:
        return label_error_reports.get(session, 1)


def error_ids(services: Services) -> list[int]:
    report = report_of(services)
    assert report is not None
    return [error["annotation_id"] for error in report.errors]


def embedded_tasks(model_server: FakeModelServer) -> list[str]:
    """The pictures' names, in the order in which the model server was asked for their vectors."""
    urls = [row.input["contents"][0]["media"]["url"] for row in model_server.embedded]
    return [url.rsplit("/", 1)[1].removesuffix(".png") for url in urls]


def test_the_wrong_annotation_is_stored_with_the_label_that_fits_better(services: Services, store: Store) -> None:
    annotate(store, *PICTURES)
    run = find(services)
    assert (run.state, run.error, run.done, run.failed, run.total) == (RunState.FINISHED, None, 25, 0, 25)
    assert (run.cursor, run.version_number, run.label_studio_s) == (25, 0, 0)
    report = report_of(services)
    assert report is not None
    assert (report.run_id, report.version_number, report.checked, report.found) == (run.id, 0, 25, 1)
    (error,) = report.errors
    assert 0 <= error.pop("score") < 0.5
    assert error == {
        "from_name": "label",
        "task_id": 25,
        "annotation_id": 125,
        "given": "blue",
        "suggested": "red",
    }


def test_stored_vectors_are_not_computed_again_unless_the_contents_changed(
    services: Services, store: Store, model_server: FakeModelServer
) -> None:
    annotate(store, *PICTURES)
    find(services)
    assert sorted(embedded_tasks(model_server)) == sorted(
        f"{shown}{number}" for number, (shown, _) in enumerate(PICTURES, start=1)
    )
    model_server.embedded.clear()
    with store.write() as session:
        annotation = session.get_one(Annotation, (1, 107))
        annotation.task_data = {"image": "http://pictures.test/red-changed.png"}
    find(services)
    assert embedded_tasks(model_server) == ["red1", "red-changed"], "the first tells which base model there is"


def test_vectors_of_another_base_model_are_computed_again(
    services: Services, store: Store, model_server: FakeModelServer
) -> None:
    annotate(store, *PICTURES)
    find(services)
    model_server.embedded.clear()
    model_server.space = "fake two"
    assert find(services).state == RunState.FINISHED
    assert len(model_server.embedded) == 25
    assert error_ids(services) == [125]


class KilledError(BaseException):
    """The worker is gone: no handler of the job catches this."""


def test_a_killed_run_goes_on_with_the_rest_of_its_tasks(
    services: Services, store: Store, model_server: FakeModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotate(store, *PICTURES)
    real = label_errors._embed

    def embed_and_be_killed(context: Any, questions: Any) -> Any:
        if 21 in questions:
            raise KilledError
        return real(context, questions)

    monkeypatch.setattr(label_errors, "_embed", embed_and_be_killed)
    run = request(services)
    with pytest.raises(KilledError):
        label_errors.find_label_errors(run.id)
    monkeypatch.setattr(label_errors, "_embed", real)
    assert len(model_server.embedded) == 20, "two pages of ten"
    expired = services.settings.model_copy(update={"run_lease_seconds": 0.0})
    bulk_runs.requeue_killed(store, expired)
    model_server.embedded.clear()
    ended = find(services, run)
    assert (ended.state, ended.attempt, ended.done) == (RunState.FINISHED, 2, 25)
    assert embedded_tasks(model_server) == ["red1", "red21", "blue22", "red23", "blue24", "red25"]
    assert error_ids(services) == [125]


def test_a_run_fails_if_its_worker_is_killed_three_times_while_it_checks(
    services: Services, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pages that are stored already must not count as progress."""
    annotate(store, *PICTURES)

    def be_killed(*_: Any) -> None:
        raise KilledError

    monkeypatch.setattr(label_errors.label_errors, "find", be_killed)
    run = request(services)
    expired = services.settings.model_copy(update={"run_lease_seconds": 0.0})
    for _ in range(3):
        with pytest.raises(KilledError):
            label_errors.find_label_errors(run.id)
        bulk_runs.requeue_killed(store, expired)
    with store.read() as session:
        ended = bulk_runs.get(session, 1, run.id)
    assert (ended.state, ended.error) == (RunState.FAILED, "the worker was killed 3 times after task 25")


def test_a_cancelled_run_stores_nothing_and_the_last_result_stays(
    services: Services, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotate(store, *PICTURES)
    first = find(services)
    real = label_errors.label_errors.find
    run = request(services)

    def cancel_and_find(*arguments: Any) -> Any:
        bulk_runs.cancel(store, 1, run.id)
        return real(*arguments)

    monkeypatch.setattr(label_errors.label_errors, "find", cancel_and_find)
    assert find(services, run).state == RunState.CANCELLED
    report = report_of(services)
    assert report is not None and report.run_id == first.id


def test_after_its_turn_a_run_lets_another_go_first_and_then_goes_on(
    services: Services, store: Store, model_server: FakeModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_bulk_runs, "TURN_S", 0.0)
    projects.upsert(store, 2)
    annotate(store, *PICTURES)
    other = bulk_runs.request(store, 2, "test")
    run = find(services)
    assert (run.state, run.cursor, run.done) == (RunState.QUEUED, 10, 10)
    claimed = leases.claim(store, BulkRun, other.id)
    assert claimed is not None
    run = find(services, run)
    assert (run.state, run.done) == (RunState.FINISHED, 25)
    assert len(model_server.embedded) == 26, "the first once more"


def test_a_task_that_cannot_be_read_is_a_failure_and_a_deleted_annotation_is_no_error(
    services: Services, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotate(store, *PICTURES, ("broken", "red"), ("red", "blue"))
    real = label_errors.label_errors.find

    def delete_and_find(*arguments: Any) -> Any:
        with store.write() as session:
            session.get_one(Annotation, (1, 127)).is_deleted = True
        return real(*arguments)

    monkeypatch.setattr(label_errors.label_errors, "find", delete_and_find)
    run = find(services)
    assert (run.state, run.done, run.failed) == (RunState.FINISHED, 26, 1)
    assert run.failures == [{"task_id": 26, "reason": "no picture"}]
    assert error_ids(services) == [125]


def test_an_annotation_with_an_odd_value_is_left_out(services: Services, store: Store) -> None:
    annotate(store, *PICTURES)
    with store.write() as session:
        odd = [{"from_name": "label", "type": "choices", "value": None}]
        data = {"image": "http://pictures.test/red.png"}
        session.add(Annotation(id=200, project_id=1, task_id=200, task_data=data, result=odd))
    assert find(services).state == RunState.FINISHED
    assert error_ids(services) == [125]


@pytest.mark.parametrize(
    ("pictures", "reason"),
    [
        ([], UNSUITED),
        ([("red", "red")] * 6, "label: all 6 annotations say the same"),
    ],
)
def test_too_few_annotations_end_the_run_with_what_is_missing(
    services: Services, store: Store, pictures: list[tuple[str, str]], reason: str
) -> None:
    annotate(store, *pictures)
    run = find(services)
    assert (run.state, run.error) == (RunState.FAILED, f"label errors cannot be looked for: {reason}")
    assert report_of(services) is None


def test_a_model_server_that_is_away_is_asked_again_and_then_ends_the_run(
    services: Services, store: Store, model_server: FakeModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(retries, "sleep", pauses.append)
    annotate(store, *PICTURES)
    model_server.status = 500
    run = find(services)
    assert (run.state, len(pauses)) == (RunState.FAILED, retries.MOST_TRIES - 1)


def test_only_the_worst_errors_are_stored_and_all_are_counted(
    services: Services, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_error_reports, "MOST_STORED", 2)
    annotate(store, *PICTURES * 3)
    find(services)
    report = report_of(services)
    assert report is not None
    assert (report.found, len(report.errors)) == (3, 2)


def test_the_vectors_are_there_for_search(services: Services, store: Store, model_server: FakeModelServer) -> None:
    annotate(store, *PICTURES)
    find(services)
    with store.read() as session:
        assert task_embeddings.count_by_space(session, 1) == {model_server.space: 25}
