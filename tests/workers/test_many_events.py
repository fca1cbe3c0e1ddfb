"""What is asked about a project's events takes no longer where it has had many."""

import sqlite3
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, insert

from lorabel.database import reasons
from lorabel.database.store import Store
from lorabel.database.tables import Event, EventState
from tests.workers.events import PROJECT, annotation, put
from workers.collect import apply_pending

MANY = 5000
INSTRUCTIONS = 100


@pytest.fixture
def count_steps(store: Store) -> Callable[[Callable[[], object]], int]:
    """How many hundreds of instructions SQLite's machine executes during a call."""
    if not store.is_sqlite:
        pytest.skip("PostgreSQL does not say what it executes")
    executed: Counter[str] = Counter()

    def note() -> int:
        executed["steps"] += 1
        return 0

    def watch(connection: sqlite3.Connection, _: Any) -> None:
        connection.set_progress_handler(note, INSTRUCTIONS)

    event.listen(store.engine, "connect", watch)
    store.engine.dispose()

    def count(call: Callable[[], object]) -> int:
        executed.clear()
        call()
        return executed["steps"]

    return count


def put_applied(store: Store) -> None:
    row = {"action": "A", "project_id": PROJECT, "payload": "{}", "state": EventState.APPLIED}
    with store.write() as session:
        session.execute(insert(Event), [row] * MANY)


def test_an_event_is_applied_as_quickly_after_many_others(
    store: Store, count_steps: Callable[[Callable[[], object]], int]
) -> None:
    counts = []
    for number in (1, 2, 3):  # the first also inserts the project
        put(store, annotation(number, number, "red", 0))
        counts.append(count_steps(lambda: apply_pending(store)))
        put_applied(store)
    assert counts[2] <= counts[1] + 10


def test_why_events_failed_is_found_among_many_others(
    store: Store, count_steps: Callable[[Callable[[], object]], int]
) -> None:
    def read() -> None:
        with store.read() as session:
            assert [reason.reason for reason in reasons.list_of(session, PROJECT, 10)] == ["A failed: why"]

    with store.write() as session:
        session.add(Event(action="A", project_id=PROJECT, payload="{}", state=EventState.FAILED, error="why"))
    before = count_steps(read)
    put_applied(store)
    assert count_steps(read) <= before + 10
