"""Values that are found out for each look while that is quick, and kept while it is slow.

What a page shows of a project with hundreds of thousands of annotations may take a database a second. Such a value
is that of a moment ago, and is found out anew in the background when somebody looks.
"""

import threading
import time
from collections.abc import Callable, Hashable
from datetime import timedelta
from typing import Generic, TypeVar

from cachetools import LRUCache

from backend.pages.snapshots import Snapshot, Taken
from lorabel.database.tables import now

# What is found out in less time is found out each time.
QUICK_S = 0.1
# Seconds after which a value is found anew: so many that finding takes this share of the time, but at most those.
# Pages that are asked for meanwhile are slower.
RENEWED_SHARE, MOST_LIFETIME_S = 0.01, 30.0
# An older value is found out anew before it is shown: much may have changed since somebody looked.
OLDEST = timedelta(seconds=60)
CLOSE_TIMEOUT_S = 5.0
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class KeptIfSlow(Generic[K, V]):
    """Values by key. Thread-safe.

    Args:
        find: finds a value; what it raises is raised by `get`, unless a value is kept.
        most: of so many keys, those that were looked at last, slow values are kept.
        name: of the values, for the log.
    """

    def __init__(self, find: Callable[[K], V], most: int, name: str) -> None:
        self._find, self._name = find, name
        self._slow: LRUCache[K, Snapshot[V]] = LRUCache(most)
        self._lock = threading.Lock()

    def get(self, key: K) -> V:
        """The value of now, or one that is at most about OLDEST."""
        with self._lock:
            snapshot = self._slow.get(key)
        if snapshot is not None and snapshot.age() < OLDEST and (kept := snapshot.get()) is not None:
            return kept.value
        began_at = time.monotonic()
        value = self._find(key)
        took_s = time.monotonic() - began_at
        if took_s > QUICK_S:
            first = Taken(value, now(), took_s)
            with self._lock:
                self._slow[key] = Snapshot(lambda: self._find(key), _lifetime_s, f"{self._name} of {key}", first)
        return value

    def close(self) -> None:
        """Find no values any more."""
        with self._lock:
            for snapshot in self._slow.values():
                snapshot.close(CLOSE_TIMEOUT_S)


def _lifetime_s(took_s: float) -> float:
    return min(took_s / RENEWED_SHARE, MOST_LIFETIME_S)
