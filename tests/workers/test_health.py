"""Health without Redis; with workers and a real Redis it is tested in tests/e2e/test_compose_commands.py."""

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
def alone(settings: Settings, store: Store) -> Iterator[Settings]:
    """A migrated database, and nobody where Redis should be."""
    yield settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"})


def add_event(store: Store, age: timedelta, state: EventState) -> int:
    event = Event(action="ANNOTATION_CREATED", project_id=1, payload="{}", state=state, received_at=now() - age)
    with store.write() as session:
        session.add(event)
        session.flush()
        return event.id


def add_run(store: Store, silent_for: timedelta) -> None:
    projects.upsert(store, 1, hostname="http://localhost:8080")
    with store.write() as session:
        alive_at = now() - silent_for
        session.add(
            TrainingRun(
                project_id=1, state=RunState.RUNNING, reason="test", started_at=alive_at, heartbeat_at=alive_at
            )
        )


def test_an_event_that_waits_for_minutes_means_that_the_light_worker_is_stuck(
    alone: Settings, store: Store
) -> None:
    oldest = add_event(store, timedelta(minutes=5), EventState.PENDING)
    add_event(store, timedelta(minutes=4), EventState.PENDING)
    assert find_fault(LIGHT, alone) == f"event {oldest} has waited for more than 180 s"


def test_events_that_are_done_or_new_say_nothing(alone: Settings, store: Store) -> None:
    add_event(store, timedelta(days=1), EventState.APPLIED)
    add_event(store, timedelta(seconds=1), EventState.PENDING)
    assert "ConnectionError" in str(find_fault(LIGHT, alone))


def test_a_worker_that_trains_is_alive_though_redis_is_gone(alone: Settings, store: Store) -> None:
    add_run(store, timedelta(seconds=1))
    assert find_fault(TRAIN, alone) is None


def test_a_run_that_fell_silent_is_no_sign_of_life(alone: Settings, store: Store) -> None:
    add_run(store, timedelta(seconds=alone.run_lease_seconds + 5))
    assert "ConnectionError" in str(find_fault(TRAIN, alone))
