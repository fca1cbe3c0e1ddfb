"""Events that arrive at the same time, with a real database."""

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
    """The real database, whose first transaction waits until the test sets `may_go_on`. If `error` is set, all
    later transactions raise it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.transactions = 0
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()
        self.error: Exception | None = None

    @contextmanager
    def write(self) -> Iterator[Session]:
        self._begin()
        with self._store.write() as session:
            yield session

    @contextmanager
    def write_one_statement(self) -> Iterator[Session]:
        self._begin()
        with self._store.write_one_statement() as session:
            yield session

    def _begin(self) -> None:
        self.transactions += 1
        self.has_begun.set()
        assert self.may_go_on.wait(WAIT_S)
        if self.error is not None and self.transactions > 1:
            raise self.error

    def insert(self, table: Any) -> Any:
        return self._store.insert(table)


def event(number: int, **columns: Any) -> Event:
    defaults = {"action": "PROJECT_UPDATED", "project_id": 1, "payload": str(number), "state": EventState.PENDING}
    return Event(**{**defaults, **columns})


def put_at_once(slow: SlowStore, first: Event, others: list[Event]) -> tuple[Future[None], list[Future[None]]]:
    """Put the first event, and put the others while it is being written. Returns the futures of all."""
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


def test_events_that_wait_at_the_same_time_share_a_transaction_and_get_their_ids(store: Store) -> None:
    slow = SlowStore(store)
    events = [event(number, project_id=number % 3) for number in range(20)]
    first, others = put_at_once(slow, events[0], events[1:])
    assert [future.exception() for future in (first, *others)] == [None] * 20
    assert slow.transactions == 2
    assert payloads(store) == {event.id: event.payload for event in events}


def test_an_event_that_cannot_be_stored_does_not_affect_others(store: Store) -> None:
    events = [event(0), event(1), event(2, action=None), event(3)]
    first, others = put_at_once(SlowStore(store), events[0], events[1:])
    assert [type(future.exception()) for future in (first, *others)] == [
        type(None),
        type(None),
        IntegrityError,
        type(None),
    ]
    assert sorted(payloads(store).values()) == ["0", "1", "3"]


def test_a_failing_database_is_tried_once_for_all_waiting_events(store: Store) -> None:
    slow = SlowStore(store)
    slow.error = OperationalError("BEGIN IMMEDIATE", {}, Exception("database is locked"))
    first, others = put_at_once(slow, event(0), [event(number) for number in range(1, 9)])
    assert first.exception() is None
    assert {future.exception() for future in others} == {slow.error}
    assert slow.transactions == 2
    assert list(payloads(store).values()) == ["0"]


def test_an_event_is_committed_when_put_returns_while_others_put_without_pause(store: Store) -> None:
    event_writer = EventWriter(store)

    def send(sender: int) -> None:
        for number in range(20):
            new_event = event(100 * sender + number)
            event_writer.put(new_event)
            with store.read() as session:
                assert session.get_one(Event, new_event.id).payload == new_event.payload

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(send, range(8)))
    assert len(payloads(store)) == 160


@pytest.mark.parametrize("project_id", [None, 7])
def test_an_ignored_event_creates_no_project(store: Store, project_id: int | None) -> None:
    EventWriter(store).put(event(0, project_id=project_id, state=EventState.IGNORED))
    with store.read() as session:
        assert session.scalars(select(Project.id)).all() == []
