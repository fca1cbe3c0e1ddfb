"""Events that come at the same moment, against a real database."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from backend.event_writer import EventWriter
from lorabel.database.store import Store
from lorabel.database.tables import Event, EventState, Project

WAIT_S = 10.0


class SlowStore:
    """The real database, whose first transaction begins when the test says so."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.transactions = 0
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()
        self.error: Exception | None = None

    @contextmanager
    def write(self) -> Iterator[Session]:
        self.transactions += 1
        self.has_begun.set()
        assert self.may_go_on.wait(WAIT_S)
        if self.error is not None and self.transactions > 1:
            raise self.error
        with self._store.write() as session:
            yield session

    def insert(self, table: Any) -> Any:
        return self._store.insert(table)


def event(number: int, **columns: Any) -> Event:
    given = {"action": "PROJECT_UPDATED", "project_id": 1, "payload": str(number), "state": EventState.PENDING}
    return Event(**{**given, **columns})


def put_at_once(slow: SlowStore, first: Event, others: list[Event]) -> tuple[Future[None], list[Future[None]]]:
    """The others all wait while the first one has its turn."""
    event_writer = EventWriter(slow)  # type: ignore[arg-type]
    with ThreadPoolExecutor(1 + len(others)) as threads:
        began = threads.submit(event_writer.put, first)
        assert slow.has_begun.wait(WAIT_S)
        waiting = [threads.submit(event_writer.put, other) for other in others]
        while len(event_writer._waiting) < len(others):
            threading.Event().wait(0.005)
        slow.may_go_on.set()
    return began, waiting


def payloads(store: Store) -> dict[int, str]:
    with store.read() as session:
        return {row.id: row.payload for row in session.scalars(select(Event))}


def test_events_that_wait_at_the_same_moment_are_one_transaction_and_each_knows_its_own_id(store: Store) -> None:
    slow = SlowStore(store)
    events = [event(number, project_id=number % 3) for number in range(20)]
    first, others = put_at_once(slow, events[0], events[1:])
    assert [one.exception() for one in (first, *others)] == [None] * 20
    assert slow.transactions == 2
    assert payloads(store) == {one.id: one.payload for one in events}
    with store.read() as session:
        assert set(session.scalars(select(Project.id))) == {0, 1, 2}


def test_an_event_that_cannot_be_stored_harms_no_other(store: Store) -> None:
    events = [event(0), event(1), event(2, action=None), event(3)]
    first, others = put_at_once(SlowStore(store), events[0], events[1:])
    assert [type(one.exception()) for one in (first, *others)] == [
        type(None),
        type(None),
        IntegrityError,
        type(None),
    ]
    assert sorted(payloads(store).values()) == ["0", "1", "3"]


def test_a_database_that_fails_is_asked_once_for_all_who_wait(store: Store) -> None:
    slow = SlowStore(store)
    slow.error = OperationalError("BEGIN IMMEDIATE", {}, Exception("database is locked"))
    first, others = put_at_once(slow, event(0), [event(number) for number in range(1, 9)])
    assert first.exception() is None
    assert {one.exception() for one in others} == {slow.error}
    assert slow.transactions == 2
    assert list(payloads(store).values()) == ["0"]


def test_what_is_put_is_committed_before_put_returns_though_senders_never_pause(store: Store) -> None:
    event_writer = EventWriter(store)

    def send(sender: int) -> None:
        for number in range(20):
            mine = event(100 * sender + number)
            event_writer.put(mine)
            with store.read() as session:
                assert session.get_one(Event, mine.id).payload == mine.payload

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(send, range(8)))
    assert len(payloads(store)) == 160


@pytest.mark.parametrize("project_id", [None, 7])
def test_an_ignored_event_makes_no_project(store: Store, project_id: int | None) -> None:
    EventWriter(store).put(event(0, project_id=project_id, state=EventState.IGNORED))
    with store.read() as session:
        assert session.scalars(select(Project.id)).all() == []
