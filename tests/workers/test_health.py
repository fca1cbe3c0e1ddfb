"""Health checks without Redis; tests/e2e/test_compose_commands.py tests them with workers and a real Redis."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from lorabel.database import projects
from lorabel.database.jobs import LIGHT, TRAIN
from lorabel.database.store import Store
from lorabel.database.tables import Event, EventState, RunState, TrainingRun, now
from lorabel.settings import Settings
from workers.health import find_fault


@pytest.fixture
def without_redis(settings: Settings, store: Store) -> Iterator[Settings]:
    """Settings with a migrated database, and with an address of Redis where nothing answers."""
    yield settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"})


def add_event(store: Store, age: timedelta, state: EventState) -> int:
    event = Event(action="ANNOTATION_CREATED", project_id=1, payload="{}", state=state, received_at=now() - age)
    with store.write() as session:
        session.add(event)
        session.flush()
        return event.id


def add_run(store: Store, lease_age: timedelta) -> None:
    projects.upsert(store, 1, hostname="http://localhost:8080")
    with store.write() as session:
        alive_at = now() - lease_age
        session.add(
            TrainingRun(
                project_id=1, state=RunState.RUNNING, reason="test", started_at=alive_at, heartbeat_at=alive_at
            )
        )


def test_an_event_that_has_waited_for_minutes_is_a_fault_of_the_light_worker(
    without_redis: Settings, store: Store
) -> None:
    oldest = add_event(store, timedelta(minutes=5), EventState.PENDING)
    add_event(store, timedelta(minutes=4), EventState.PENDING)
    assert find_fault(LIGHT, without_redis) == f"event {oldest} has waited for more than 180 s"


def test_applied_and_new_events_are_no_fault(without_redis: Settings, store: Store) -> None:
    add_event(store, timedelta(days=1), EventState.APPLIED)
    add_event(store, timedelta(seconds=1), EventState.PENDING)
    assert "ConnectionError" in str(find_fault(LIGHT, without_redis))


def test_a_worker_that_trains_is_alive_even_without_redis(without_redis: Settings, store: Store) -> None:
    add_run(store, timedelta(seconds=1))
    assert find_fault(TRAIN, without_redis) is None


def test_a_run_whose_lease_expired_is_no_sign_of_life(without_redis: Settings, store: Store) -> None:
    add_run(store, timedelta(seconds=without_redis.run_lease_seconds + 5))
    assert "ConnectionError" in str(find_fault(TRAIN, without_redis))
