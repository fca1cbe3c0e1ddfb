import itertools
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from lorabel.database import projects, training_runs
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, Project, RunState, TrainingRun, now
from lorabel.errors import NotFoundError, RunLostError
from lorabel.problems.image_classification import ImageClassification
from lorabel.settings import Settings

IDS = itertools.count(1)


@pytest.fixture(autouse=True)
def project(store: Store) -> None:
    projects.upsert(store, 1, label_config=ImageClassification.SAMPLES[0].label_config)


def read(store: Store, run_id: int) -> TrainingRun:
    with store.read() as session:
        return training_runs.get(session, 1, run_id)


def annotate(store: Store, count: int, age_s: float = 0, **columns: Any) -> None:
    with store.write() as session:
        for _ in range(count):
            row = Annotation(id=next(IDS), project_id=1, **columns)
            row.received_at = now() - timedelta(seconds=age_s)
            session.add(row)


def test_a_second_request_is_served_by_the_queued_run(store: Store) -> None:
    first = training_runs.request(store, 1, "CLI")
    assert training_runs.request(store, 1, "REST").id == first.id
    claimed = training_runs.claim(store, first.id)
    assert claimed is not None and claimed.state == RunState.RUNNING
    assert training_runs.request(store, 1, "REST").id != first.id


def test_sixteen_requests_at_once_make_one_run_and_only_one_of_sixteen_claims_gets_it(store: Store) -> None:
    with ThreadPoolExecutor(16) as threads:
        requested = {run.id for run in threads.map(lambda _: training_runs.request(store, 1, "x"), range(16))}
        assert len(requested) == 1
        claims = list(threads.map(lambda _: training_runs.claim(store, *requested), range(16)))
    assert sum(claim is not None for claim in claims) == 1


def test_a_project_has_at_most_one_running_run(store: Store) -> None:
    training_runs.claim(store, training_runs.request(store, 1, "first").id)
    second = training_runs.request(store, 1, "second")
    assert training_runs.claim(store, second.id) is None
    assert read(store, second.id).state == RunState.QUEUED


def test_an_unknown_project_is_an_error(store: Store) -> None:
    with pytest.raises(NotFoundError, match="project 99 is not known here"):
        training_runs.request(store, 99, "x")


def test_a_killed_run_is_queued_again_once_and_then_fails(store: Store, settings: Settings) -> None:
    expired_settings = settings.model_copy(update={"run_lease_seconds": 0.0})
    run = training_runs.request(store, 1, "x")
    first = training_runs.claim(store, run.id)
    assert first is not None
    training_runs.requeue_killed(store, settings)
    assert read(store, run.id).state == RunState.RUNNING, "its lease has not expired"
    training_runs.requeue_killed(store, expired_settings)
    assert (read(store, run.id).state, read(store, run.id).attempt) == (RunState.QUEUED, 2)
    with pytest.raises(RunLostError):
        training_runs.report(store, first, step=3)
    training_runs.claim(store, run.id)
    training_runs.requeue_killed(store, expired_settings)
    failed = read(store, run.id)
    assert failed.state == RunState.FAILED
    assert failed.error == "the worker was killed in attempt 2 of 2"


def test_the_first_worker_of_a_run_that_was_queued_again_cannot_finish_it(
    store: Store, settings: Settings
) -> None:
    first = training_runs.claim(store, training_runs.request(store, 1, "x").id)
    assert first is not None
    training_runs.requeue_killed(store, settings.model_copy(update={"run_lease_seconds": 0.0}))
    second = training_runs.claim(store, first.id)
    assert second is not None
    with pytest.raises(RunLostError), store.write() as session:
        training_runs.finish(session, first, RunState.FINISHED, decision="by the first worker")
    with store.write() as session:
        training_runs.finish(session, second, RunState.FINISHED, decision="by the second worker")
    assert read(store, first.id).decision == "by the second worker"


def test_a_run_is_due_after_n_new_annotations(store: Store, settings: Settings) -> None:
    annotate(store, 9)
    assert training_runs.request_due(store, settings) == []
    annotate(store, 1)
    assert [run.reason for run in training_runs.request_due(store, settings)] == ["10 new annotations"]


def test_a_run_is_due_after_a_few_new_annotations_if_the_newest_is_old_enough(
    store: Store, settings: Settings
) -> None:
    annotate(store, 2, age_s=1000)
    assert training_runs.request_due(store, settings) == []
    annotate(store, 1, age_s=1000)
    assert len(training_runs.request_due(store, settings)) == 1


def test_skipped_deleted_and_already_used_annotations_do_not_count(store: Store, settings: Settings) -> None:
    annotate(store, 20, was_cancelled=True)
    annotate(store, 20, is_deleted=True)
    annotate(store, 20, run_id=7)
    assert training_runs.request_due(store, settings) == []


def fail(store: Store) -> None:
    """Request, claim and fail a run."""
    run = training_runs.claim(store, training_runs.request(store, 1, "x").id)
    assert run is not None
    with store.write() as session:
        training_runs.finish(session, run, RunState.FAILED, error="no weights")


def test_after_each_failure_the_next_run_waits_twice_as_long(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotate(store, 10)
    start = now()

    def is_due_after(seconds: float) -> bool:
        monkeypatch.setattr(training_runs, "now", lambda: start + timedelta(seconds=seconds))
        with store.read() as session:
            is_pausing = training_runs._is_pausing(session, 1)
        monkeypatch.setattr(training_runs, "now", now)
        return not is_pausing

    assert is_due_after(0)
    fail(store)
    assert not is_due_after(55) and is_due_after(70)
    assert training_runs.request_due(store, settings) == []
    fail(store)
    assert not is_due_after(115) and is_due_after(130)


def test_no_run_is_due_where_no_problem_serves_the_label_config(store: Store, settings: Settings) -> None:
    projects.upsert(store, 1, label_config='<View><Text name="t" value="$t"/></View>')
    annotate(store, 20)
    assert training_runs.request_due(store, settings) == []


def test_extra_params_of_a_project_override_the_training_policy(store: Store, settings: Settings) -> None:
    projects.upsert(store, 1, extra_params={"train_after_annotations": "2", "train_min_annotations": "many"})
    annotate(store, 2)
    assert len(training_runs.request_due(store, settings)) == 1


NOT_NUMBERS = ["\u00b2", "-3", "0", "2.5", "1" * 5000, "", None, True, 2.5, -3, [], {}]


@pytest.mark.parametrize("value", [*NOT_NUMBERS, 10**18, "9" * 900], ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("name", ["train_after_annotations", "train_after_seconds", "train_min_annotations"])
def test_odd_extra_params_of_a_project_do_not_stop_the_training_of_others(
    store: Store, settings: Settings, name: str, value: object
) -> None:
    """Project 1 comes first, and what it has in its extra params must not matter to project 2."""
    projects.upsert(store, 1, extra_params={name: value})
    projects.upsert(store, 2, label_config=ImageClassification.SAMPLES[0].label_config)
    annotate(store, 5, age_s=1000)
    with store.write() as session:
        session.add_all(Annotation(id=next(IDS), project_id=2) for _ in range(10))
    due = [run.project_id for run in training_runs.request_due(store, settings)]
    assert due == ([1, 2] if value in NOT_NUMBERS or name == "train_after_annotations" else [2])


def test_a_project_that_causes_an_exception_is_logged_and_does_not_stop_others(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The exception is a fault that is not known yet."""
    projects.upsert(store, 2, label_config=ImageClassification.SAMPLES[0].label_config)
    annotate(store, 10)
    with store.write() as session:
        session.add_all(Annotation(id=next(IDS), project_id=2) for _ in range(10))
    can_learn = training_runs._can_learn

    def fail_for_project_1(project: Project) -> bool:
        if project.id == 1:
            raise RuntimeError("a fault")
        return can_learn(project)

    monkeypatch.setattr(training_runs, "_can_learn", fail_for_project_1)
    assert [run.project_id for run in training_runs.request_due(store, settings)] == [2]
    assert "project 1: no run is requested" in caplog.text


def finish(store: Store, still_new: int, *, is_refused: bool = False) -> None:
    """Request, claim and finish a run that has read all annotations and leaves some new."""
    run = training_runs.claim(store, training_runs.request(store, 1, "x").id)
    assert run is not None
    with store.write() as session:
        for annotation in session.query(Annotation):
            annotation.tries += 1
        session.flush()
        metrics = {training_runs.STILL_NEW: still_new}
        if is_refused:
            metrics[training_runs.DUE_AT] = training_runs.due_after_refusal(session, 1, Settings())
        training_runs.finish(session, run, RunState.FINISHED, metrics=metrics)


def test_annotations_that_a_finished_run_left_new_are_tried_again_after_pauses_that_double(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotate(store, 10)
    start = now()

    def is_due_after(seconds: float) -> bool:
        """Whether a run is due then. A run that was requested is removed."""
        monkeypatch.setattr(training_runs, "now", lambda: start + timedelta(seconds=seconds))
        runs = training_runs.request_due(store, settings)
        monkeypatch.setattr(training_runs, "now", now)
        with store.write() as session:
            for run in runs:
                session.delete(session.get_one(TrainingRun, run.id))
        return bool(runs)

    assert is_due_after(0)
    finish(store, still_new=10)
    assert not is_due_after(55) and is_due_after(70)
    finish(store, still_new=10)
    assert not is_due_after(115) and is_due_after(130)
    finish(store, still_new=0)
    assert is_due_after(0), "the newest run left none, so all of these have arrived since"


def test_annotations_that_arrive_during_the_pause_count_without_those_that_were_tried(
    store: Store, settings: Settings
) -> None:
    annotate(store, 10)
    finish(store, still_new=10)
    annotate(store, 9)
    assert training_runs.request_due(store, settings) == []
    annotate(store, 1)
    assert [run.reason for run in training_runs.request_due(store, settings)] == ["10 new annotations"]


def test_annotations_that_a_run_has_left_for_the_next_one_count_at_once(store: Store, settings: Settings) -> None:
    """Also if the run could not use what it has read."""
    annotate(store, 10)
    finish(store, still_new=10)
    with store.write() as session:
        session.add_all(
            Annotation(id=next(IDS), project_id=1, received_at=now() - timedelta(days=9)) for _ in range(30)
        )
    assert [run.reason for run in training_runs.request_due(store, settings)] == ["30 new annotations"]


@pytest.mark.slow
def test_after_a_refused_run_the_next_waits_for_a_growing_number_of_annotations(
    store: Store, settings: Settings
) -> None:
    """A stream of annotations that never make a better version."""
    runs_at = []
    for number in range(1, 181):
        annotate(store, 1)
        if training_runs.request_due(store, settings):
            runs_at.append(number)
            finish(store, still_new=number, is_refused=True)
    assert runs_at[:4] == [10, 20, 30, 40], "while there are few, each ten are worth a run"
    assert runs_at[4:7] == [50, 63, 79]
    assert runs_at[7] == 89, "LoRA begins at 80 tasks, and ten annotations are new: it does not wait for 99"
    assert runs_at[8:] == [112, 140, 175]


def test_no_pause_is_long_enough_to_try_a_refused_run_again_without_new_annotations(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotate(store, 40)
    finish(store, still_new=40, is_refused=True)
    later = now() + timedelta(days=30)
    monkeypatch.setattr(training_runs, "now", lambda: later)
    assert training_runs.request_due(store, settings) == []
    annotate(store, 9)
    assert training_runs.request_due(store, settings) == []
    annotate(store, 1)
    assert [run.reason for run in training_runs.request_due(store, settings)] == ["50 new annotations"]


def test_deleted_annotations_shorten_the_waiting_after_a_refused_run(store: Store, settings: Settings) -> None:
    """Else a project that starts over would wait for more annotations than it ever had."""
    annotate(store, 400)
    finish(store, still_new=400, is_refused=True)
    with store.write() as session:
        for annotation in session.query(Annotation).limit(360):
            annotation.is_deleted = True
    annotate(store, 9)
    assert training_runs.request_due(store, settings) == []
    annotate(store, 1)
    assert [run.reason for run in training_runs.request_due(store, settings)] == ["10 new annotations"]


def test_an_accepted_run_ends_the_waiting_for_a_growing_number(store: Store, settings: Settings) -> None:
    annotate(store, 100)
    finish(store, still_new=100, is_refused=True)
    finish(store, still_new=0)
    with store.write() as session:
        session.query(Annotation).update({"run_id": 2})
    annotate(store, 10)
    assert [run.reason for run in training_runs.request_due(store, settings)] == ["10 new annotations"]


def test_a_run_for_new_annotations_is_told_from_one_that_a_person_requested(
    store: Store, settings: Settings
) -> None:
    annotate(store, 5, age_s=1000)
    (due,) = training_runs.request_due(store, settings)
    assert training_runs.is_for_new_annotations(due)
    for reason in ("START_TRAINING", "CLI", "because of new annotations"):
        assert not training_runs.is_for_new_annotations(TrainingRun(reason=reason))
