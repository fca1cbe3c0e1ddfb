"""Counts over all annotations of a project. A project with hundreds of thousands takes a database a second, so its
counts are those of a moment ago, and are counted anew in the background when somebody looks."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from cachetools import LRUCache
from sqlalchemy import func, select

from backend.pages.snapshots import Snapshot, Taken
from lorabel.database import shown_predictions
from lorabel.database.shown_predictions import Shown
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, now
from lorabel.database.training_runs import IS_USABLE

# What is counted in less time is counted each time.
QUICK_S = 0.1
LIFETIME_S = 10.0
MOST_SLOW_PROJECTS = 256
CLOSE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Counts:
    """What is counted.

    Attributes:
        annotations: usable ones.
        by_version: name of a version -> what annotators did with its predictions, whatever head was theirs.
        base: what they did with those that the base models made alone.
    """

    annotations: int
    by_version: Mapping[str, Shown]
    base: Shown


class ProjectCounts:
    """Counts of projects. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._slow: LRUCache[int, Snapshot[Counts]] = LRUCache(MOST_SLOW_PROJECTS)
        self._lock = threading.Lock()

    def get(self, project_id: int) -> Counts:
        """The counts of a project: those of now, or of about LIFETIME_S before somebody last looked."""
        with self._lock:
            snapshot = self._slow.get(project_id)
        kept = None if snapshot is None else snapshot.get()
        if kept is not None:
            return kept.value
        began_at = time.monotonic()
        counts = self._count(project_id)
        if time.monotonic() - began_at > QUICK_S:
            with self._lock:
                self._slow[project_id] = Snapshot(
                    lambda: self._count(project_id),
                    LIFETIME_S,
                    f"counts of project {project_id}",
                    Taken(counts, now()),
                )
        return counts

    def close(self) -> None:
        """Count no more."""
        with self._lock:
            for snapshot in self._slow.values():
                snapshot.close(CLOSE_TIMEOUT_S)

    def _count(self, project_id: int) -> Counts:
        usable = (Annotation.project_id == project_id, Annotation.task_id.is_not(None), *IS_USABLE)
        with self._store.read() as session:
            return Counts(
                session.scalar(select(func.count(Annotation.id)).where(*usable)) or 0,
                shown_predictions.by_version(session, project_id),
                shown_predictions.by_base_models(session, project_id),
            )
