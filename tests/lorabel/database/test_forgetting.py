"""What is forgotten while workers compute, and events whose owner only the table of annotations knows."""

import json

import pytest
from sqlalchemy import select

from lorabel.database import forgetting, leases, projects, training_runs
from lorabel.database.forgotten_events import Subject
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, Event, EventState, ModelVersion, RunState, TrainingRun, now
from lorabel.errors import RunLostError


def learned(store: Store) -> None:
    """Project 1 with a version that learned from task 7, and project 2."""
    for project_id in (1, 2):
        projects.upsert(store, project_id, label_config="<View/>")
    with store.write() as session:
        for task_id in (7, 8):
            session.add(Annotation(project_id=1, id=10 * task_id, task_id=task_id, result=[], updated_at=now()))
        session.add(
            ModelVersion(
                project_id=1,
                number=1,
                parent=0,
                state="live",
                base_models={},
                adapters={"c": "p1.v1/c"},
                metrics={},
                trained_on=[70, 80],
            )
        )
        projects.get(session, 1).live_number = 1


def claimed(store: Store, run: TrainingRun | None) -> TrainingRun:
    assert run is not None
    row = leases.claim(store, TrainingRun, run.id)
    assert row is not None
    return row


def assert_lost(store: Store, run: TrainingRun) -> None:
    with pytest.raises(RunLostError):
        leases.report(store, run, step=99)
    with pytest.raises(RunLostError), store.write() as session:
        leases.finish(session, run, RunState.FINISHED, annotation_ids=[70, 80])


def test_a_worker_whose_run_was_forgotten_does_not_go_on_as_the_one_that_trains_again(store: Store) -> None:
    learned(store)
    former = claimed(store, training_runs.request(store, 1, "test"))
    forgotten = forgetting.forget(store, 1, Subject(task_id=7), is_retraining=True)
    assert forgotten.active_runs == 1
    newer = claimed(store, forgotten.retraining)
    assert_lost(store, former)
    with store.read() as session:
        row = session.get_one(TrainingRun, newer.id)
        assert (row.state, row.step, row.annotation_ids) == (RunState.RUNNING, 0, None)


def test_a_worker_whose_project_was_forgotten_does_not_go_on_as_another_run(store: Store) -> None:
    learned(store)
    former = claimed(store, training_runs.request(store, 1, "test"))
    forgetting.forget(store, 1, Subject())
    claimed(store, training_runs.request(store, 2, "of another project"))
    assert_lost(store, former)


def test_a_worker_whose_project_was_forgotten_does_not_go_on_in_a_new_project_of_that_id(store: Store) -> None:
    learned(store)
    former = claimed(store, training_runs.request(store, 1, "test"))
    forgetting.forget(store, 1, Subject())
    projects.upsert(store, 1, label_config="<View/>")
    claimed(store, training_runs.request(store, 1, "again"))
    assert_lost(store, former)


def test_a_deletion_goes_with_the_annotation_that_only_the_table_knows(store: Store) -> None:
    learned(store)
    body = {"action": "ANNOTATIONS_DELETED", "project": {"id": 1}, "annotations": [{"id": 70}]}
    with store.write() as session:
        session.add(Event(action=body["action"], project_id=1, payload=json.dumps(body), state=EventState.APPLIED))
    assert forgetting.forget(store, 1, Subject(task_id=7)).rows["event"] == 1
    with store.read() as session:
        assert session.scalars(select(Event.id)).all() == []
