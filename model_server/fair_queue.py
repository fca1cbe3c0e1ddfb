"""Who is next: the most urgent priority first, and in one priority every project in turn."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from lorabel.inference.messages import Priority


class Queued(Protocol):
    @property
    def priority(self) -> Priority: ...

    @property
    def project(self) -> int: ...


Item = TypeVar("Item", bound=Queued)


class FairQueue(Generic[Item]):
    """Thread-safe."""

    def __init__(self) -> None:
        self._lanes: dict[Priority, OrderedDict[int, deque[Item]]] = {
            priority: OrderedDict() for priority in Priority
        }
        self._changed = threading.Condition()
        self._count = 0
        self._is_closed = False

    def __len__(self) -> int:
        return self._count

    def put(self, item: Item) -> None:
        with self._changed:
            self._lanes[item.priority].setdefault(item.project, deque()).append(item)
            self._count += 1
            self._changed.notify()

    def get(self) -> Item | None:
        """The next one, when there is one; None at the end."""
        batch = self.get_batch(lambda _: 1, lambda _: None)
        return batch[0] if batch else None

    def get_batch(self, most: Callable[[Item], int], alike: Callable[[Item], object]) -> list[Item]:
        """Whatever waits in the most urgent priority and is alike, at least one; empty at the end.

        Args:
            most: the limit of a batch that begins with this item.
            alike: items of one batch have equal ones.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._count or self._is_closed)
            if self._is_closed:
                return []
            projects = next(projects for projects in self._lanes.values() if projects)
            first = next(iter(projects.values()))[0]
            return self._take(projects, most(first), alike)

    def close(self) -> None:
        """Those who wait get nothing any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _take(
        self, projects: OrderedDict[int, deque[Item]], most: int, alike: Callable[[Item], object]
    ) -> list[Item]:
        batch: list[Item] = []
        passed = 0  # projects in a row whose next item goes into another batch
        while projects and len(batch) < most and passed < len(projects):
            project, waiting = next(iter(projects.items()))
            if batch and alike(waiting[0]) != alike(batch[0]):
                passed += 1
                projects.move_to_end(project)
                continue
            passed = 0
            batch.append(waiting.popleft())
            if waiting:
                projects.move_to_end(project)
            else:
                del projects[project]
        self._count -= len(batch)
        return batch
