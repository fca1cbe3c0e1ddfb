"""Where events enter the database: those that wait at the same moment are committed in one transaction.

A commit is a flush of the disk, and on SQLite a turn as its only writer, beside the light worker. Whoever gets the
turn takes along everybody who waits, so many senders wait for little more than one does. (Databases do the same
inside: https://www.postgresql.org/docs/current/wal-configuration.html on group commit.)
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import insert
from sqlalchemy.exc import DataError, IntegrityError

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Event, EventState

MOST_TOGETHER = 64
COLUMNS = ("action", "project_id", "payload", "state")


@dataclass
class _Waiting:
    event: Event
    is_done: bool = False
    error: BaseException | None = None


class EventWriter:
    """Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[_Waiting] = []
        self._guard = threading.Lock()
        self._turn = threading.Lock()

    def put(self, event: Event) -> None:
        """Returns when the event is committed, and its project's row with it; raises what kept it from that."""
        mine = _Waiting(event)
        with self._guard:
            self._waiting.append(mine)
        with self._turn:
            while not mine.is_done:
                self._commit(self._take())
        if mine.error is not None:
            raise mine.error

    def _take(self) -> list[_Waiting]:
        with self._guard:
            taken, self._waiting = self._waiting[:MOST_TOGETHER], self._waiting[MOST_TOGETHER:]
        return taken

    def _commit(self, taken: Sequence[_Waiting]) -> None:
        """An event that the database refuses harms no other. Any other failure is everybody's at once."""
        try:
            self._write([one.event for one in taken])
        except BaseException as error:  # noqa: BLE001 - raised to those who wait, or they would wait for ever
            if len(taken) > 1 and isinstance(error, IntegrityError | DataError):
                for one in taken:
                    self._commit([one])
                return
            for one in taken:
                one.error = error
        for one in taken:
            one.is_done = True

    def _write(self, events: Sequence[Event]) -> None:
        """The events are told no more than their ids, so that what comes to nothing can be tried again."""
        rows = [{name: getattr(event, name) for name in COLUMNS} for event in events]
        projects_of = {event.project_id for event in events if event.state != EventState.IGNORED}
        with self._store.write() as session:
            projects.ensure_all(self._store, session, {one for one in projects_of if one is not None})
            new_ids = insert(Event).returning(Event.id, sort_by_parameter_order=True)
            ids = session.scalars(new_ids, rows).all()
        for event, event_id in zip(events, ids, strict=True):
            event.id = event_id
