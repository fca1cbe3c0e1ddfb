"""Training runs that a person cancels, and when the next one is due."""

from datetime import timedelta

import pytest

from lorabel.database import projects, training_runs
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, RunState, now
from lorabel.errors import ConflictError, NotFoundError, RunLostError
from lorabel.problems.image_classification import ImageClassification
from lorabel.settings import Settings


@pytest.fixture(autouse=True)
def project(store: Store) -> None:
    projects.upsert(store, 1, label_config=ImageClassification.SAMPLES[0].label_config)


def annotate(store: Store, first_id: int, count: int, age_s: float) -> None:
    with store.write() as session:
        for number in range(first_id, first_id + count):
            received_at = now() - timedelta(seconds=age_s)
            session.add(Annotation(id=number, project_id=1, task_id=number, received_at=received_at))


def test_the_worker_of_a_cancelled_run_loses_it(store: Store) -> None:
    run = training_runs.claim(store, training_runs.request(store, 1, "test").id)
    assert run is not None
    assert training_runs.cancel(store, 1, run.id).state == RunState.CANCELLED
    with pytest.raises(RunLostError):
        training_runs.report(store, run, step=1)
    assert training_runs.cancel(store, 1, run.id).state == RunState.CANCELLED


def test_a_run_that_has_ended_cannot_be_cancelled(store: Store) -> None:
    run = training_runs.claim(store, training_runs.request(store, 1, "test").id)
    assert run is not None
    with store.write() as session:
        training_runs.finish(session, run, RunState.FINISHED)
    with pytest.raises(ConflictError):
        training_runs.cancel(store, 1, run.id)
    with pytest.raises(NotFoundError):
        training_runs.cancel(store, 2, run.id)


def test_after_a_cancelled_run_only_annotations_that_arrive_later_count(store: Store, settings: Settings) -> None:
    settings = settings.model_copy(update={"train_after_annotations": 10})
    annotate(store, 1, 30, age_s=60)
    [run] = training_runs.request_due(store, settings)
    training_runs.cancel(store, 1, run.id)
    assert training_runs.request_due(store, settings) == []
    annotate(store, 100, 9, age_s=-1)
    assert training_runs.request_due(store, settings) == []
    annotate(store, 200, 1, age_s=-1)
    assert [run.reason for run in training_runs.request_due(store, settings)] == ["10 new annotations"]


def test_a_cancelled_follower_does_not_hide_what_arrived_while_another_run_went_on(
    store: Store, settings: Settings
) -> None:
    settings = settings.model_copy(update={"train_after_annotations": 10})
    running = training_runs.claim(store, training_runs.request(store, 1, "first").id)
    assert running is not None
    annotate(store, 1, 30, age_s=0)
    training_runs.cancel(store, 1, training_runs.request(store, 1, "second").id)
    with store.write() as session:
        training_runs.finish(session, running, RunState.FINISHED)
    assert [run.reason for run in training_runs.request_due(store, settings)] == ["30 new annotations"]


def test_a_person_can_ask_for_a_run_after_a_cancelled_one(store: Store) -> None:
    cancelled = training_runs.cancel(store, 1, training_runs.request(store, 1, "test").id)
    assert training_runs.request(store, 1, "test").id != cancelled.id
