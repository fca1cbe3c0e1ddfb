"""A queue that serves the most urgent priority first, and the projects of one priority in turn."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from lorabel.inference.messages import Priority


class Queued(Protocol):
    """What the queue reads of an item."""

    @property
    def priority(self) -> Priority: ...

    @property
    def project(self) -> int: ...


Item = TypeVar("Item", bound=Queued)
MOST_URGENT = next(iter(Priority))


class FairQueue(Generic[Item]):
    """Unbounded. Thread-safe.

    Projects of one priority take turns: each gives one item, then the next project follows, so a project with
    many items does not delay the others.
    """

    def __init__(self) -> None:
        self._projects: dict[Priority, OrderedDict[int, deque[Item]]] = {
            priority: OrderedDict() for priority in Priority
        }
        self._changed = threading.Condition()
        self._count = 0
        self._awaited = 1
        self._is_closed = False

    def __len__(self) -> int:
        return self._count

    def put(self, item: Item) -> None:
        """Append an item to those of its priority and project."""
        with self._changed:
            self._projects[item.priority].setdefault(item.project, deque()).append(item)
            self._count += 1
            if self._count >= self._awaited or item.priority == MOST_URGENT:
                self._changed.notify()

    def put_back(self, item: Item) -> None:
        """Make an item that was taken the next one of its priority and project."""
        with self._changed:
            self._projects[item.priority].setdefault(item.project, deque()).appendleft(item)
            self._projects[item.priority].move_to_end(item.project, last=False)
            self._count += 1
            self._changed.notify()

    def take_next(self, is_taken: Callable[[Item], bool]) -> Item | None:
        """Take the next item if `is_taken` says so, without waiting; None if it does not, or if there is none."""
        with self._changed:
            projects = next((projects for projects in self._projects.values() if projects), None)
            if projects is None or not is_taken(next(iter(projects.values()))[0]):
                return None
            return self._take(projects, 1, lambda _: None, lambda _: 1)[0]

    def get(self) -> Item | None:
        """Wait for the next item and return it; None once the queue is closed."""
        batch = self.get_batch(lambda _: 1, lambda _: None, lambda _: 1)
        return batch[0] if batch else None

    def gather(self, wanted: Callable[[Item], int], timeout_s: float) -> None:
        """Wait for an item, and then until there are enough items. For a queue that one thread takes from.

        Args:
            wanted: how many items are enough, given the next one.
            timeout_s: how long the first item waits for others at most.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._count or self._is_closed)
            until = time.monotonic() + timeout_s
            while not self._is_closed and (left_s := until - time.monotonic()) > 0:
                self._awaited = wanted(self._next_items()[0])
                if self._count >= self._awaited:
                    break
                self._changed.wait(left_s)
            self._awaited = 1

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def get_batch(
        self,
        max_rows: Callable[[Item], int],
        batch_key: Callable[[Item], object],
        rows_of: Callable[[Item], int],
        *,
        is_patient: bool = True,
    ) -> list[Item]:
        """Wait for an item and return it with waiting items of the same priority and batch key.

        Args:
            max_rows: most rows, at least 1, of a batch that begins with the given item. An item that has more
                comes alone.
            batch_key: only items with equal keys may share a batch.
            rows_of: how many rows an item has.
            is_patient: whether to wait for an item.

        Returns:
            At least one item; no items once the queue is closed, or if there is none and it is not patient.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._count or self._is_closed or not is_patient)
            if self._is_closed or not self._count:
                return []
            projects = next(projects for projects in self._projects.values() if projects)
            return self._take(projects, max_rows(self._next_items()[0]), batch_key, rows_of)

    def close(self) -> None:
        """End all calls of `get` and `get_batch`, now and later. Items left in the queue are not returned."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _next_items(self) -> deque[Item]:
        """The items of the project whose turn it is; there must be one."""
        projects = next(projects for projects in self._projects.values() if projects)
        return next(iter(projects.values()))

    def _take(
        self,
        projects: OrderedDict[int, deque[Item]],
        max_rows: int,
        batch_key: Callable[[Item], object],
        rows_of: Callable[[Item], int],
    ) -> list[Item]:
        batch: list[Item] = []
        rows = 0
        skipped_projects = 0  # how many in a row had a next item with another batch key
        while projects and rows < max_rows and skipped_projects < len(projects):
            project, waiting = next(iter(projects.items()))
            if batch and batch_key(waiting[0]) != batch_key(batch[0]):
                skipped_projects += 1
                projects.move_to_end(project)
                continue
            skipped_projects = 0
            rows += rows_of(waiting[0])
            if batch and rows > max_rows:
                break
            batch.append(waiting.popleft())
            if waiting:
                projects.move_to_end(project)
            else:
                del projects[project]
        self._count -= len(batch)
        return batch
