import itertools
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from lorabel.contracts import Content, EmbedInput, Modality
from lorabel.database import projects, task_embeddings, training_runs
from lorabel.database.jobs import COLLECT_LINGER_S
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, Event, EventState, Project, now
from lorabel.database.task_embeddings import TaskVector
from lorabel.settings import Settings
from tests.sqlite_limits import limit_pages, limit_parameters
from tests.workers.events import PROJECT, annotation, at, deletion, put, recorded, task_deletion
from workers import collect
from workers.collect import apply_pending, apply_some
from workers.services import Services


def final_state(store: Store, project_id: int = PROJECT) -> dict[int, tuple[Any, ...]]:
    with store.read() as session:
        rows = session.scalars(select(Annotation).where(Annotation.project_id == project_id))
        return {
            row.id: ("deleted",) if row.is_deleted else (row.task_id, row.result[0]["value"]["choices"][0])
            for row in rows
        }


def states(store: Store) -> list[str]:
    with store.read() as session:
        return list(session.scalars(select(Event.state).order_by(Event.id)))


def test_a_submitted_annotation_is_kept_with_its_task_and_project(store: Store) -> None:
    put(store, recorded("image-choices/05-accept-webhook-annotation_created.json"))
    assert apply_pending(store) == 1
    with store.read() as session:
        row = session.get_one(Annotation, (PROJECT, 1))
        assert (row.project_id, row.task_id, row.completed_by) == (1, 1, 1)
        assert row.task_data == {"image": "/data/upload/1/ca4223a3-red0.png"}
        assert row.result[0]["value"] == {"choices": ["red"]}
        assert (row.was_cancelled, row.ground_truth, row.is_deleted, row.run_id) == (False, False, False, None)
        assert "Choices" in str(session.get_one(Project, 1).label_config)


def test_skipped_and_ground_truth_annotations_are_marked(store: Store) -> None:
    put(store, recorded("image-choices/08-skip-webhook-annotation_created.json"))
    put(store, recorded("image-choices/11-ground-truth-webhook-annotation_updated.json"))
    apply_pending(store)
    with store.read() as session:
        assert [row.was_cancelled for row in session.scalars(select(Annotation).order_by(Annotation.id))] == [
            False,
            True,
        ]
        assert session.scalar(select(Annotation.ground_truth).where(Annotation.was_cancelled.is_(False)))


def test_the_embeddings_of_deleted_tasks_and_projects_are_deleted(store: Store) -> None:
    embed_input = EmbedInput(contents=(Content(modality=Modality.TEXT, text="t"),))
    task_embeddings.write(
        store, PROJECT, dict.fromkeys((1, 2, 3), embed_input), dict.fromkeys((1, 2, 3), TaskVector("s", b""))
    )
    put(store, task_deletion(2))
    apply_pending(store)
    with store.read() as session:
        assert task_embeddings.read_keys(session, PROJECT, 0, None).keys() == {1, 3}
    put(store, {"action": "PROJECT_DELETED", "project": {"id": PROJECT}})
    apply_pending(store)
    with store.read() as session:
        assert task_embeddings.count_by_space(session, PROJECT) == {}


def test_an_event_can_create_or_delete_many_annotations(store: Store) -> None:
    put(store, recorded("image-choices/14-bulk-create-webhook-annotations_created.json"))
    apply_pending(store)
    assert final_state(store) == {4: (1, "red"), 5: (2, "red"), 6: (3, "red"), 7: (4, "red")}
    put(store, recorded("image-choices/15-bulk-delete-webhook-annotations_deleted.json"))
    apply_pending(store)
    assert set(final_state(store).values()) == {("deleted",)}


HISTORY = [
    annotation(1, 10, "red", 0),
    annotation(1, 10, "blue", 5, "ANNOTATION_UPDATED"),
    annotation(1, 10, "red", 9, "ANNOTATION_UPDATED"),
    annotation(2, 20, "blue", 1),
    annotation(2, 20, "red", 2, "ANNOTATION_UPDATED"),
    deletion(2),
    annotation(3, 30, "blue", 3),
    task_deletion(30),
]
EXPECTED = {1: (10, "red"), 2: ("deleted",), 3: ("deleted",)}


@pytest.mark.parametrize("seed", range(12))
def test_any_order_and_any_number_of_arrivals_give_the_same_state(store: Store, seed: int) -> None:
    events = HISTORY * 5
    random.Random(seed).shuffle(events)
    put(store, *events)
    apply_pending(store)
    assert final_state(store) == EXPECTED
    assert EventState.PENDING not in states(store) and EventState.FAILED not in states(store)


def test_an_update_may_arrive_before_its_creation_and_a_deletion_before_both(store: Store) -> None:
    created, updated = annotation(1, 10, "red", 0), annotation(1, 10, "blue", 5, "ANNOTATION_UPDATED")
    for order in itertools.permutations([created, updated]):
        put(store, *order)
    apply_pending(store)
    assert final_state(store) == {1: (10, "blue")}
    assert states(store) == ["applied", "applied", "stale", "stale"]
    put(store, deletion(2), annotation(2, 20, "red", 0), annotation(2, 20, "red", 3, "ANNOTATION_UPDATED"))
    apply_pending(store)
    assert final_state(store)[2] == ("deleted",)


def test_an_annotation_that_arrives_after_its_task_was_deleted_does_not_train(store: Store) -> None:
    put(store, task_deletion(30), annotation(3, 30, "blue", 3))
    apply_pending(store)
    assert final_state(store) == {3: ("deleted",)}


def test_sixteen_workers_apply_each_event_once(store: Store) -> None:
    put(store, *(annotation(i, 100 + i, "red", 0) for i in range(40)))
    put(store, *(annotation(i, 100 + i, "blue", 5, "ANNOTATION_UPDATED") for i in range(40)))
    put(store, *(annotation(i, 100 + i, "blue", 5, "ANNOTATION_UPDATED") for i in range(40)))
    with ThreadPoolExecutor(16) as threads:
        counts = list(threads.map(lambda _: apply_pending(store), range(16)))
    assert sum(counts) == 120
    assert set(final_state(store).values()) == {(100 + i, "blue") for i in range(40)}
    with store.read() as session:
        times = set(session.scalars(select(Annotation.times_applied)))
    assert times <= {1, 2}, "once for the creation, if it was not overtaken, and once for the update"
    final_states = states(store)
    assert final_states.count("applied") + final_states.count("stale") == 120
    assert final_states.count("stale") >= 40


def test_the_newest_label_config_stays_even_if_an_older_event_comes_later(store: Store) -> None:
    new = recorded("image-choices/18-label-config-webhook-project_updated.json")
    old = {**new, "project": {**new["project"], "label_config": "<View/>"}}
    put(store, old, new)
    apply_pending(store)
    put(store, annotation(1, 1, "red", 0))
    apply_pending(store)
    with store.read() as session:
        assert projects.get(session, PROJECT).label_config == new["project"]["label_config"]


def test_an_event_that_cannot_be_applied_is_kept_with_its_error_and_the_next_is_applied(store: Store) -> None:
    broken = annotation(1, 10, "red", 0) | {"annotation": {"id": 1, "updated_at": "yesterday", "result": []}}
    put(store, broken, annotation(2, 20, "red", 0))
    assert apply_pending(store) == 2
    assert states(store) == ["failed", "applied"]
    with store.read() as session:
        assert "ValueError" in str(session.scalar(select(Event.error).where(Event.state == "failed")))


def test_an_event_that_cannot_be_applied_does_not_stop_the_events_before_and_after_it(store: Store) -> None:
    broken = annotation(1, 10, "red", 0) | {"annotation": {"id": 1, "updated_at": "yesterday", "result": []}}
    many = [annotation(i, 10 * i, "red", 0) for i in range(2, 6)]
    put(store, many[0], broken, deletion(2), many[1], annotation(3, 30, "blue", 0), many[2], many[3])
    assert apply_pending(store) == 7
    assert states(store) == ["applied", "failed", "applied", "applied", "stale", "applied", "applied"]
    assert final_state(store) == {2: ("deleted",), 3: (30, "red"), 4: (40, "red"), 5: (50, "red")}


def test_the_events_of_one_transaction_have_a_bounded_total_size(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [annotation(i, i, "red", 0) for i in range(6)]
    monkeypatch.setattr(collect, "CHARACTERS_PER_TRANSACTION", int(2.5 * len(json.dumps(events[0]))))
    put(store, *events)
    assert [apply_some(store, newest=5) for _ in range(4)] == [2, 2, 1, 0]
    assert states(store) == ["applied"] * 5 + ["pending"]
    monkeypatch.setattr(collect, "CHARACTERS_PER_TRANSACTION", 10)
    assert apply_pending(store) == 1, "an event that is larger than the bound is applied alone"


def test_a_project_that_another_worker_has_locked_does_not_delay_other_projects(store: Store) -> None:
    if store.is_sqlite:
        pytest.skip("SQLite has one writer")
    put(store, annotation(1, 1, "red", 0))
    with store.write() as session:
        other = annotation(2, 2, "red", 0)
        session.add(Event(action=other["action"], project_id=2, payload=json.dumps(other)))
    with store.write() as session:
        session.scalars(select(Event).where(Event.project_id == PROJECT).with_for_update()).all()
        assert apply_pending(store) == 1
    assert states(store) == ["pending", "applied"]


def test_a_job_applies_the_events_that_arrive_while_it_waits(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Jobs.collect` enqueues no other job for these events."""
    services = Services.open(settings)
    monkeypatch.setattr(Services, "current", lambda: services)
    monkeypatch.setattr(collect, "COLLECT_LINGER_S", 1.0)
    put(store, annotation(1, 10, "red", 0))
    with ThreadPoolExecutor(1) as threads:
        job = threads.submit(collect.collect)
        while states(store) == ["pending"]:
            time.sleep(0.005)
        put(store, annotation(2, 20, "red", 0))
        job.result()
    services.close()
    assert states(store) == ["applied", "applied"]


def test_an_event_that_arrives_while_a_job_waits_is_applied_before_the_wait_ends(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody submits just after somebody else: the new head does not wait for the end of the job."""
    services = Services.open(settings)
    monkeypatch.setattr(Services, "current", lambda: services)
    pauses: list[tuple[float, list[str]]] = []

    def submit_in_the_first_pause(seconds: float) -> None:
        if seconds and not pauses:
            put(store, annotation(2, 20, "red", 0))
        if seconds:
            pauses.append((seconds, states(store)))

    monkeypatch.setattr(collect, "sleep", submit_in_the_first_pause)
    put(store, annotation(1, 10, "red", 0))
    collect.collect()
    services.close()
    assert pauses[0][1] == ["applied", "pending"] and pauses[1][1] == ["applied", "applied"]
    assert sum(seconds for seconds, _ in pauses) == pytest.approx(COLLECT_LINGER_S), "as `Jobs.collect` counts on"


def test_a_training_request_whose_run_is_missing_gets_a_run(store: Store) -> None:
    put(store, recorded("image-choices/16-train-webhook-start_training.json"))
    apply_pending(store)
    put(store, recorded("image-choices/16-train-webhook-start_training.json"))
    apply_pending(store)
    with store.read() as session:
        assert [run.reason for run in training_runs.list_of(session, PROJECT)] == ["START_TRAINING"]
    assert states(store) == ["applied", "stale"]


def test_a_training_request_waits_while_a_job_has_locked_the_project(store: Store) -> None:
    """Otherwise PostgreSQL finds a deadlock: the request waits for the project, and the job for the new run."""
    projects.upsert(store, PROJECT, label_config="<View/>")
    with ThreadPoolExecutor(1) as threads:
        with store.write() as session:
            projects.get(session, PROJECT, is_locked=True)
            request = threads.submit(training_runs.request, store, PROJECT, "REST")
            wait([request], timeout=0.5)
            assert not request.done()
            run = training_runs.add(session, PROJECT, "START_TRAINING")
        assert request.result().id == run.id


def test_times_are_compared_by_value_and_not_as_text(store: Store) -> None:
    put(store, annotation(1, 10, "red", 5))
    same = annotation(1, 10, "blue", 5)
    same["annotation"]["updated_at"] = at(5).replace("Z", "+00:00")
    put(store, same)
    apply_pending(store)
    assert final_state(store) == {1: (10, "red")}


def put_into(store: Store, project_id: int, *bodies: dict[str, Any]) -> None:
    """Add events of any project to the database."""
    with store.write() as session:
        for body in bodies:
            session.add(Event(action=body["action"], project_id=project_id, payload=json.dumps(body)))
            session.flush()


def test_an_event_changes_annotations_of_its_own_project_only(store: Store) -> None:
    put_into(store, 1, annotation(1, 10, "red", 0))
    put_into(store, 2, annotation(1, 10, "blue", 5, "ANNOTATION_UPDATED"), annotation(2, 99, "blue", 6))
    put_into(store, 3, deletion(1), task_deletion(10))
    apply_pending(store)
    assert final_state(store, 1) == {1: (10, "red")}
    assert final_state(store, 2) == {1: (10, "blue"), 2: (99, "blue")}
    assert final_state(store, 3) == {1: ("deleted",)}
    assert set(states(store)) == {"applied"}


def test_an_event_in_one_project_takes_no_ids_from_another(store: Store) -> None:
    """A forged event may name an annotation or task that Label Studio has not made yet."""
    put_into(store, 2, annotation(1, 10, "blue", 3600), deletion(2, 3), task_deletion(10, 20))
    put_into(store, 1, annotation(1, 10, "red", 0), annotation(2, 20, "blue", 0), deletion(2))
    apply_pending(store)
    assert final_state(store, 1) == {1: (10, "red"), 2: ("deleted",)}
    put_into(store, 2, task_deletion(10))
    put_into(store, 1, task_deletion(10))
    apply_pending(store)
    assert final_state(store, 1) == {1: ("deleted",), 2: ("deleted",)}
    assert states(store)[-2:] == ["stale", "applied"]


@pytest.mark.parametrize("year", ["2999", "9999"])
def test_a_time_in_the_far_future_does_not_stop_later_updates(store: Store, year: str) -> None:
    forged = annotation(1, 10, "red", 0, updated_at=f"{year}-01-01T00:00:00Z")
    put(store, forged)
    apply_pending(store)
    with store.read() as session:
        row = session.get_one(Annotation, (PROJECT, 1))
        assert row.updated_at is not None and row.updated_at <= now()
    later = (now() + timedelta(seconds=1)).isoformat()
    put(store, forged, annotation(1, 10, "blue", 0, "ANNOTATION_UPDATED", updated_at=later))
    apply_pending(store)
    assert final_state(store) == {1: (10, "blue")}
    assert states(store) == ["applied", "stale", "applied"]


def test_a_time_in_the_far_future_that_an_older_version_stored_is_not_believed(store: Store) -> None:
    put(store, annotation(1, 10, "red", 0))
    apply_pending(store)
    with store.write() as session:
        session.get_one(Annotation, (PROJECT, 1)).updated_at = now() + timedelta(days=3650)
    put(store, annotation(1, 10, "blue", 5, "ANNOTATION_UPDATED"))
    apply_pending(store)
    assert final_state(store) == {1: (10, "blue")}


def test_a_label_studio_whose_clock_is_a_little_ahead_is_believed(store: Store) -> None:
    second, first = ((now() + timedelta(seconds=ahead_s)).isoformat() for ahead_s in (90, 60))
    put(
        store,
        annotation(1, 10, "blue", 0, "ANNOTATION_UPDATED", updated_at=second),
        annotation(1, 10, "red", 0, updated_at=first),
    )
    apply_pending(store)
    assert final_state(store) == {1: (10, "blue")}
    assert states(store) == ["applied", "stale"]


@pytest.fixture
def sqlite_store(store: Store) -> Store:
    if not store.is_sqlite:
        pytest.skip("the limit is one of SQLite")
    return store


def test_events_stay_pending_while_the_disk_is_full_and_other_projects_go_on(sqlite_store: Store) -> None:
    large = annotation(1, 10, "red", 0)
    large["task"]["data"] = {"text": "x" * 200_000}
    put_into(sqlite_store, 1, large, annotation(2, 20, "red", 0))
    put_into(sqlite_store, 2, annotation(3, 30, "red", 0))
    limit_pages(sqlite_store, more=8)
    assert apply_pending(sqlite_store) == 1
    assert states(sqlite_store) == ["pending", "pending", "applied"]
    limit_pages(sqlite_store, more=10_000)
    assert apply_pending(sqlite_store) == 2
    assert states(sqlite_store) == ["applied"] * 3
    assert final_state(sqlite_store, 1) == {1: (10, "red"), 2: (20, "red")}
    assert final_state(sqlite_store, 2) == {3: (30, "red")}


def test_an_event_may_delete_more_tasks_than_a_statement_has_parameters(sqlite_store: Store) -> None:
    limit_parameters(sqlite_store, 999)
    put(sqlite_store, annotation(1, 2999, "red", 0), task_deletion(*range(3000)), deletion(*range(5000, 8000)))
    apply_pending(sqlite_store)
    assert states(sqlite_store) == ["applied"] * 3
    assert final_state(sqlite_store)[1] == ("deleted",)


def test_a_job_looks_for_due_runs_only_in_the_projects_whose_events_it_has_applied(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With thousands of projects, a look at all of them takes longer than a minute; the sweep does that."""
    services = Services.open(settings)
    monkeypatch.setattr(Services, "current", lambda: services)
    monkeypatch.setattr(collect, "sleep", lambda _: None)
    enough = settings.train_after_annotations
    for project_id in (1, 2):
        put(store, *(annotation(i, i, "red", 0) for i in range(enough)), project_id=project_id)
    apply_pending(store)
    put(store, annotation(enough, enough, "red", 0))
    collect.collect()
    services.close()
    with store.read() as session:
        assert [len(training_runs.list_of(session, project_id)) for project_id in (1, 2)] == [1, 0]
