"""Writes webhook events to the database. Events that arrive at the same time share a transaction.

A commit waits for the disk, and on SQLite there is only one writer at a time, which may be the light worker. The
thread that gets its turn writes the events of all threads that wait. So with many senders, each waits little
longer than a single sender. PostgreSQL's group commit works like this
(https://www.postgresql.org/docs/current/wal-configuration.html).
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import insert
from sqlalchemy.exc import DataError, IntegrityError

from lorabel.database.store import Store
from lorabel.database.tables import Event

MAX_EVENTS_PER_TRANSACTION = 64
COLUMNS = ("action", "project_id", "payload", "state")


@dataclass
class _WaitingEvent:
    event: Event
    is_done: bool = False
    error: BaseException | None = None


class EventWriter:
    """Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[_WaitingEvent] = []
        self._waiting_lock = threading.Lock()
        self._write_lock = threading.Lock()

    def put(self, event: Event) -> None:
        """Write an event.

        Returns when it is committed, and sets `event.id`. Raises whatever prevented the commit.
        """
        waiting_event = _WaitingEvent(event)
        with self._waiting_lock:
            self._waiting.append(waiting_event)
        with self._write_lock:
            while not waiting_event.is_done:
                self._commit(self._take())
        if waiting_event.error is not None:
            raise waiting_event.error

    def _take(self) -> list[_WaitingEvent]:
        with self._waiting_lock:
            batch = self._waiting[:MAX_EVENTS_PER_TRANSACTION]
            self._waiting = self._waiting[MAX_EVENTS_PER_TRANSACTION:]
        return batch

    def _commit(self, batch: Sequence[_WaitingEvent]) -> None:
        """Write a batch. If the database refuses an event, the events are written one by one, so that only this
        event fails. After any other error all events of the batch fail."""
        try:
            self._write([waiting_event.event for waiting_event in batch])
        except BaseException as error:  # noqa: BLE001 - raised in the threads that wait, which would wait for ever
            if len(batch) > 1 and isinstance(error, IntegrityError | DataError):
                for waiting_event in batch:
                    self._commit([waiting_event])
                return
            for waiting_event in batch:
                waiting_event.error = error
        for waiting_event in batch:
            waiting_event.is_done = True

    def _write(self, events: Sequence[Event]) -> None:
        """Insert the rows without adding the events to the session, so that a failed batch can be retried.

        One event is one statement. Several are a transaction, since SQLAlchemy may need more statements than one.
        """
        rows = [{name: getattr(event, name) for name in COLUMNS} for event in events]
        write = self._store.write if len(rows) > 1 else self._store.write_one_statement
        with write() as session:
            insert_events = insert(Event).returning(Event.id, sort_by_parameter_order=True)
            event_ids = session.scalars(insert_events, rows).all()
        for event, event_id in zip(events, event_ids, strict=True):
            event.id = event_id
