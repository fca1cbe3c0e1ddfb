"""Files on their way in: many at once, each only once, and no host may hold up the others.

A file that was fetched a short time ago is not fetched again if what was computed from it is still there: only
the digest of its content is remembered, by project, since a project's token opens only that project's files.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from cachetools import TTLCache

from lorabel.contracts import MediaRef
from lorabel.media import digest
from lorabel.messages import Lane
from model_server.fair_queue import FairQueue

THREADS = 128
MOST_PER_HOST = 32
MOST_DIGESTS = 200_000
URGENCY = {lane: place for place, lane in enumerate(Lane)}


@dataclass(frozen=True)
class File:
    data: bytes
    digest: str


@dataclass(frozen=True)
class _Order:
    media: MediaRef
    project: int
    lane: Lane
    done: "Future[File]"

    @property
    def key(self) -> tuple[int, MediaRef]:
        return self.project, self.media

    @property
    def host(self) -> str:
        return urlsplit(self.media.url).netloc


class Files:
    """Thread-safe.

    Args:
        fetch: downloads one file, in one of our threads.
        fresh_s: seconds for which a file is taken to be what it was.
    """

    def __init__(self, fetch: Callable[[MediaRef], bytes], fresh_s: float) -> None:
        self._fetch = fetch
        self._known: TTLCache[tuple[int, str], str] = TTLCache(MOST_DIGESTS, max(fresh_s, 1e-9), time.monotonic)
        self._waiting: dict[tuple[int, MediaRef], _Order] = {}
        self._under_way: dict[tuple[int, MediaRef], Future[File]] = {}
        self._of_host: Counter[str] = Counter()
        self._held_back: dict[str, FairQueue[_Order]] = {}
        self._lock = threading.Lock()
        self._orders: FairQueue[_Order] = FairQueue()
        self._threads = [threading.Thread(target=self._work, name="fetch", daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def known_digest(self, project: int, media: MediaRef) -> str | None:
        """Of the file's content, as it was a short time ago."""
        with self._lock:
            return self._known.get(_name(project, media))

    def get(self, project: int, media: MediaRef, lane: Lane) -> "Future[File]":
        """The file, when it is here. Who asks for one that is under way waits for the same download."""
        with self._lock:
            key = project, media
            if key in self._under_way:
                return self._under_way[key]
            order = self._waiting.get(key)
            if order is not None and URGENCY[order.lane] <= URGENCY[lane]:
                return order.done
            # More urgent than the one that waits: this one will overtake it.
            order = _Order(media, project, lane, Future()) if order is None else replace(order, lane=lane)
            self._waiting[key] = order
        self._orders.put(order)
        return order.done

    def close(self) -> None:
        self._orders.close()

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            if self._begins(order):
                self._run(order)

    def _begins(self, order: _Order) -> bool:
        with self._lock:
            if self._waiting.get(order.key) is not order:
                return False  # overtaken by its more urgent twin
            if self._of_host[order.host] >= MOST_PER_HOST:
                self._held_back.setdefault(order.host, FairQueue()).put(order)
                return False
            self._of_host[order.host] += 1
            self._under_way[order.key] = self._waiting.pop(order.key).done
            return True

    def _run(self, order: _Order) -> None:
        try:
            data = self._fetch(order.media)
            file = File(data, digest(data))
        except Exception as error:  # noqa: BLE001 - those who wait get it
            self._end(order)
            order.done.set_exception(error)
        else:
            self._end(order, file)
            order.done.set_result(file)

    def _end(self, order: _Order, file: File | None = None) -> None:
        with self._lock:
            del self._under_way[order.key]
            if file is not None:
                self._known[_name(order.project, order.media)] = file.digest
            self._of_host[order.host] -= 1
            held_back = self._held_back.get(order.host)
            next_one = held_back.get() if held_back else None
            if not held_back:
                self._held_back.pop(order.host, None)
                self._of_host += Counter()  # forgets those that are at zero
        if next_one is not None:
            self._orders.put(next_one)


def _name(project: int, media: MediaRef) -> tuple[int, str]:
    """An address may be as long as a file, where it is one (`data:`)."""
    return project, digest(media.url.encode())
