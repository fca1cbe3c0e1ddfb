"""Limits how many items of each project, or of another key, are in work at a time."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from typing import Generic

from model_server.fair_queue import FairQueue, Item


class ProjectLimit(Generic[Item]):
    """Holds back the items of a project that has as many in work as it may. Thread-safe.

    Args:
        most: how many items with its key may be in work when the given item begins.
        key: what is limited; default: the item's project.
    """

    def __init__(
        self, most: Callable[[Item], int], key: Callable[[Item], Hashable] = lambda item: item.project
    ) -> None:
        self._most, self._key = most, key
        self._in_work: Counter[Hashable] = Counter()
        self._held_back: defaultdict[Hashable, FairQueue[Item]] = defaultdict(FairQueue)
        self._lock = threading.Lock()

    def begin(self, item: Item) -> bool:
        """Count the item as in work; False if it is held back, and comes from an `end` of an item with its key."""
        key = self._key(item)
        with self._lock:
            if self._in_work[key] >= self._most(item):
                self._held_back[key].put(item)
                return False
            self._in_work[key] += 1
            return True

    def end(self, item: Item) -> list[Item]:
        """An item is no longer in work. Returns the most urgent of those with its key that were held back.

        They are as many as may begin now, since the limit may have risen.
        """
        key = self._key(item)
        with self._lock:
            self._in_work[key] -= 1
            next_items: list[Item] = []
            room = self._most(item) - self._in_work[key]
            while key in self._held_back and len(next_items) < room:
                next_item = self._held_back[key].get()
                if next_item is not None:
                    next_items.append(next_item)
                if not len(self._held_back[key]):
                    del self._held_back[key]
            if not self._in_work[key]:
                del self._in_work[key]
            return next_items
