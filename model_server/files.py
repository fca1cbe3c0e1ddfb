"""Files on their way in: many at once, each only once, and no host may hold up the others.

A file that was fetched a short time ago is not fetched again if what was computed from it is still there: only
the digest of its content is remembered, by project, since a project's token opens only that project's files.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from urllib.parse import urlsplit

from cachetools import TTLCache

from lorabel.contracts import MediaRef
from lorabel.inference.messages import Priority
from lorabel.media.fetching import digest
from model_server.fair_queue import FairQueue

THREADS = 128
MOST_PER_HOST = 32
MOST_DIGESTS = 200_000
URGENCY = {priority: place for place, priority in enumerate(Priority)}
# What nobody waits for leaves half of the threads to people, however many hosts hang.
BACKGROUND = "background"
MOST_IN_BACKGROUND = THREADS // 2


@dataclass(frozen=True)
class File:
    data: bytes
    digest: str


Key = tuple[int, str, bool]


@dataclass(frozen=True)
class _Order:
    media: MediaRef
    project: int
    priority: Priority
    host: str
    done: "Future[File]"

    @property
    def key(self) -> Key:
        return _key(self.project, self.media)

    @property
    def shares(self) -> list[str]:
        """What the order takes a part of while it is fetched."""
        return [self.host] if self.priority == Priority.INTERACTIVE else [self.host, BACKGROUND]


class Files:
    """Thread-safe.

    Args:
        fetch: downloads one file, in one of our threads.
        fresh_s: seconds for which a file is taken to be what it was.
    """

    def __init__(self, fetch: Callable[[MediaRef], bytes], fresh_s: float) -> None:
        self._fetch = fetch
        self._known: TTLCache[tuple[int, str], str] = TTLCache(MOST_DIGESTS, max(fresh_s, 1e-9), time.monotonic)
        self._waiting: dict[Key, _Order] = {}
        self._under_way: dict[Key, Future[File]] = {}
        self._taken: Counter[str] = Counter()
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

    def get(self, project: int, media: MediaRef, priority: Priority) -> "Future[File]":
        """The file, when it is here. Who asks for one that is under way waits for the same download."""
        key = _key(project, media)
        with self._lock:
            if key in self._under_way:
                return self._under_way[key]
            order = self._waiting.get(key)
            if order is not None and URGENCY[order.priority] <= URGENCY[priority]:
                return order.done
            # More urgent than the one that waits: this one will overtake it.
            done: Future[File] = Future() if order is None else order.done
            self._waiting[key] = order = _Order(media, project, priority, _host(media.url), done)
        self._orders.put(order)
        return order.done

    def close(self) -> None:
        self._orders.close()

    def _work(self) -> None:
        while self._serve_one():
            """A thread that waits for the next order must not keep the last one's file."""

    def _serve_one(self) -> bool:
        order = self._orders.get()
        if order is not None and self._begins(order):
            self._run(order)
        return order is not None

    def _begins(self, order: _Order) -> bool:
        with self._lock:
            if self._is_overtaken(order):
                return False
            for share in order.shares:
                if self._taken[share] >= (MOST_IN_BACKGROUND if share == BACKGROUND else MOST_PER_HOST):
                    self._held_back.setdefault(share, FairQueue()).put(order)
                    return False
            self._taken.update(order.shares)
            self._under_way[order.key] = self._waiting.pop(order.key).done
            return True

    def _is_overtaken(self, order: _Order) -> bool:
        """Whether its more urgent twin has taken its place."""
        return self._waiting.get(order.key) is not order

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
            self._taken.subtract(order.shares)
            self._taken += Counter()  # forgets those that are at zero
            following = [one for share in order.shares if (one := self._next_held_back(share)) is not None]
        for one in following:
            self._orders.put(one)

    def _next_held_back(self, share: str) -> _Order | None:
        held_back = self._held_back.get(share)
        while held_back:
            order = held_back.get()
            if order is not None and not self._is_overtaken(order):
                return order
        self._held_back.pop(share, None)
        return None


def _key(project: int, media: MediaRef) -> Key:
    """Not the token: one project's are alike, and change every few minutes."""
    return project, media.url, media.is_trusted


def _host(url: str) -> str:
    """Empty where there is none: whoever fetches it will say what is wrong."""
    try:
        return "" if url.startswith("data:") else urlsplit(url).netloc
    except ValueError:
        return ""


def _name(project: int, media: MediaRef) -> tuple[int, str]:
    """An address may be as long as a file, where it is one (`data:`)."""
    return project, digest(media.url.encode())
