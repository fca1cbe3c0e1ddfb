"""Downloads of media files: many at the same time, each file once, with a limit per host.

The content of a file is not kept. Its digest is kept for some time, so that a question about a file that was
fetched recently can be answered from the feature cache without another download. Digests are kept per project,
since a project's token gives access to the files of that project only.
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
from model_server.decoders import Decoders
from model_server.fair_queue import FairQueue

THREADS = 128
MAX_PER_HOST = 32
MAX_DIGESTS = 200_000
# 0 is the most urgent.
URGENCY = {priority: index for index, priority in enumerate(Priority)}
# All priorities but INTERACTIVE share half of the threads, so that hosts that hang leave the rest to people.
BACKGROUND = "background"
MAX_IN_BACKGROUND = THREADS // 2


@dataclass(frozen=True)
class File:
    """The content of a media file, and its digest (`lorabel.media.fetching.digest`)."""

    data: bytes
    digest: str


Key = tuple[int, str, bool]
"""Project, address, and whether it is trusted: requests with equal keys share a download."""


@dataclass(frozen=True)
class _Download:
    media: MediaRef
    project: int
    priority: Priority
    host: str
    done: "Future[File]"

    @property
    def key(self) -> Key:
        return _key(self.project, self.media)

    @property
    def limits(self) -> list[str]:
        """The limits that the download counts towards: its host's, and BACKGROUND unless a person waits."""
        return [self.host] if self.priority == Priority.INTERACTIVE else [self.host, BACKGROUND]


class Files:
    """Fetches media files in threads of its own. Thread-safe.

    Args:
        fetch: downloads one file; is called from many threads.
        fresh_s: seconds for which the digest of a file is taken to be still right.
        decoders: download the files instead; are closed with this.

    Attributes:
        read_picture: reads a picture in another process; None without decoders.
    """

    def __init__(
        self, fetch: Callable[[MediaRef], bytes], fresh_s: float, decoders: Decoders | None = None
    ) -> None:
        self._fetch = fetch if decoders is None else decoders.fetch
        self.read_picture = None if decoders is None else decoders.read
        self._decoders = decoders
        self._digests: TTLCache[tuple[int, str], str] = TTLCache(MAX_DIGESTS, max(fresh_s, 1e-9), time.monotonic)
        self._waiting: dict[Key, _Download] = {}
        self._running: dict[Key, Future[File]] = {}
        self._running_per_limit: Counter[str] = Counter()
        self._held_back: dict[str, FairQueue[_Download]] = {}
        self._lock = threading.Lock()
        self._queue: FairQueue[_Download] = FairQueue()
        self._threads = [threading.Thread(target=self._work, name="fetch", daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def recent_digest(self, project: int, media: MediaRef) -> str | None:
        """Return the digest of the file's content if the file was fetched less than `fresh_s` ago, else None."""
        with self._lock:
            return self._digests.get(_digest_key(project, media))

    def get(self, project: int, media: MediaRef, priority: Priority) -> "Future[File]":
        """Return a future of the file. Requests for a file that waits or is being fetched share one download.

        The future's exception is what `fetch` raised. A request that is more urgent than a waiting download makes
        the download as urgent.
        """
        key = _key(project, media)
        with self._lock:
            if key in self._running:
                return self._running[key]
            waiting = self._waiting.get(key)
            if waiting is not None and URGENCY[waiting.priority] <= URGENCY[priority]:
                return waiting.done
            # A less urgent download of the same file stays in its queue, and is ignored when its turn comes.
            done: Future[File] = Future() if waiting is None else waiting.done
            self._waiting[key] = download = _Download(media, project, priority, _host(media.url), done)
        self._queue.put(download)
        return download.done

    def close(self) -> None:
        """Let the threads end after the downloads that they have begun. Downloads that wait are not begun."""
        self._queue.close()
        if self._decoders is not None:
            self._decoders.close()

    def _work(self) -> None:
        while self._run_next():
            """The body is a separate function so that a waiting thread holds no reference to the last file."""

    def _run_next(self) -> bool:
        download = self._queue.get()
        if download is not None and self._start(download):
            self._run(download)
        return download is not None

    def _start(self, download: _Download) -> bool:
        """Count the download as running; False if it was replaced, or has to wait because a limit is reached."""
        with self._lock:
            if self._is_replaced(download):
                return False
            for limit in download.limits:
                if self._running_per_limit[limit] >= (MAX_IN_BACKGROUND if limit == BACKGROUND else MAX_PER_HOST):
                    self._held_back.setdefault(limit, FairQueue()).put(download)
                    return False
            self._running_per_limit.update(download.limits)
            self._running[download.key] = self._waiting.pop(download.key).done
            return True

    def _is_replaced(self, download: _Download) -> bool:
        """Whether a more urgent download of the same file has replaced this one."""
        return self._waiting.get(download.key) is not download

    def _run(self, download: _Download) -> None:
        try:
            data = self._fetch(download.media)
            file = File(data, digest(data))
        except Exception as error:  # noqa: BLE001 - is raised where the future's result is read
            self._end(download)
            download.done.set_exception(error)
        else:
            self._end(download, file)
            download.done.set_result(file)

    def _end(self, download: _Download, file: File | None = None) -> None:
        """Count the download as ended, and queue one that was held back for each limit that it counted towards."""
        with self._lock:
            del self._running[download.key]
            if file is not None:
                self._digests[_digest_key(download.project, download.media)] = file.digest
            self._running_per_limit.subtract(download.limits)
            self._running_per_limit += Counter()  # removes counts of zero
            candidates = [self._next_held_back(limit) for limit in download.limits]
        for candidate in candidates:
            if candidate is not None:
                self._queue.put(candidate)

    def _next_held_back(self, limit: str) -> _Download | None:
        held_back = self._held_back.get(limit)
        while held_back:
            download = held_back.get()
            if download is not None and not self._is_replaced(download):
                return download
        self._held_back.pop(limit, None)
        return None


def _key(project: int, media: MediaRef) -> Key:
    """The token is left out: a project's tokens change every few minutes, and all give the same access."""
    return project, media.url, media.is_trusted


def _host(url: str) -> str:
    """The host of an address; empty if there is none, since the fetcher reports what is wrong with the address."""
    try:
        return "" if url.startswith("data:") else urlsplit(url).netloc
    except ValueError:
        return ""


def _digest_key(project: int, media: MediaRef) -> tuple[int, str]:
    """The address is hashed, since a `data:` address is as long as its file."""
    return project, digest(media.url.encode())
