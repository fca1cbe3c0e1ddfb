"""Limits how many items of each project are in work at a time, so that one project cannot take all threads."""

import threading
from collections import Counter, defaultdict
from typing import Generic

from model_server.fair_queue import FairQueue, Item


class ProjectLimit(Generic[Item]):
    """Holds back the items of a project that has as many in work as it may. Thread-safe.

    Args:
        most: items of one project that may be in work at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._in_work: Counter[int] = Counter()
        self._held_back: defaultdict[int, FairQueue[Item]] = defaultdict(FairQueue)
        self._lock = threading.Lock()

    def begin(self, item: Item) -> bool:
        """Count the item as in work; False if it is held back, and comes from an `end` of its project."""
        with self._lock:
            if self._in_work[item.project] >= self._most:
                self._held_back[item.project].put(item)
                return False
            self._in_work[item.project] += 1
            return True

    def end(self, project: int) -> Item | None:
        """An item of the project is no longer in work. Returns the most urgent of those that were held back."""
        with self._lock:
            self._in_work[project] -= 1
            if not self._in_work[project]:
                del self._in_work[project]
            if project not in self._held_back:
                return None
            item = self._held_back[project].get()
            if not len(self._held_back[project]):
                del self._held_back[project]
            return item
