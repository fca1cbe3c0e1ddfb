"""The processes that fetch files and decode pictures for the model server (`model_server.decoder`).

They are forked from a process that has imported what they need and has no threads, so that a new one starts in
milliseconds and shares its memory with the others. A thread of the model server that waits for a decoder holds no
GIL. What waits, who comes first and how much memory may be taken is decided in the model server.
"""

import atexit
import json
import logging
import math
import multiprocessing
import os
import pickle
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor

from lorabel.contracts import MediaRef
from lorabel.errors import UnreadableError
from lorabel.families.encoders.picture_reading import PictureReader
from lorabel.media.deadline import seconds_left
from lorabel.settings import Settings
from model_server import decoder
from model_server.decoder_messages import receive, send, wait_for_begin
from model_server.metrics import Metrics

log = logging.getLogger(__name__)

# A file whose decoder ends after it has begun is given to another decoder once: it may be the file that ends them.
TRIES = 2
FEW_CORES = 2
# They decode without the GIL in several threads each, so that there need not be one for each core.
MOST_BY_DEFAULT = 4


def decoder_count(settings: Settings) -> int:
    """DECODERS, or what it is by default: none where the cores have enough to do without more processes."""
    if settings.decoders is not None:
        return settings.decoders
    cores = os.cpu_count() or 1
    return 0 if cores <= FEW_CORES else min(cores - 1, MOST_BY_DEFAULT)


class Decoders:
    """Fetches files and reads pictures in other processes. Thread-safe.

    Args:
        count: number of processes, at least 1.
    """

    def __init__(self, count: int, settings: Settings, metrics: Metrics) -> None:
        self._metrics = metrics
        self._decoders = [_Decoder(number, settings, metrics) for number in range(count)]
        multiprocessing.get_context("forkserver").set_forkserver_preload([decoder.__name__])
        forkserver.ensure_running()  # returns at once; it imports while the model server loads its models

    def start(self) -> None:
        """Start the processes, and wait until they run."""
        atexit.register(self.close)  # before multiprocessing waits for them
        for process in self._decoders:
            process.start()

    @property
    def pids(self) -> list[int]:
        """The ids of the processes."""
        return [process.pid for process in self._decoders]

    def fetch(self, media: MediaRef) -> bytes:
        """Fetch a file as `Fetcher.fetch` does.

        Raises:
            UnreadableError: see `Fetcher.fetch`; for now, if two decoders ended that had begun with it.
        """
        _, file = self._ask(decoder.FETCH, (decoder.FETCH, media))
        return file.tobytes()

    def read(self, reader: PictureReader, file: bytes) -> Tensor:
        """Read a picture as `PictureReader.read_here` does, until the deadline of `lorabel.media.deadline`.

        Raises:
            UnreadableError: see `PictureReader.read`; for now, if two decoders ended that had begun with it.
        """
        answer, pixels = self._ask(decoder.READ, (decoder.READ, reader.pickled, seconds_left(math.inf)), file)
        return torch.frombuffer(pixels, dtype=torch.uint8).view(answer["shape"]).permute(2, 0, 1)

    def close(self) -> None:
        """End the processes."""
        atexit.unregister(self.close)
        for process in self._decoders:
            process.end()

    def _ask(self, kind: str, request: tuple[Any, ...], file: bytes = b"") -> tuple[dict[str, Any], memoryview]:
        head, lost = pickle.dumps(request), list[_Decoder]()
        # Each decoder may have ended before it read the request, which then says nothing about the file.
        for _ in range(TRIES + len(self._decoders)):
            chosen, has_begun = self._least_busy(kind, lost), False
            try:
                with chosen.connection(kind) as stream:
                    send(stream, head, file)
                    wait_for_begin(stream)
                    has_begun = True
                    answer_head, body = receive(stream)
            except (EOFError, OSError):
                lost += [chosen] if has_begun else []
                if len(lost) == TRIES:
                    raise UnreadableError(
                        f"{TRIES} decoders ended while they had the file", is_permanent=False
                    ) from None
                continue
            answer = json.loads(answer_head)
            if "reason" in answer:
                raise UnreadableError(answer["reason"], is_permanent=answer["is_permanent"])
            return answer, body
        raise UnreadableError("no decoder can be started", is_permanent=False)

    def _least_busy(self, kind: str, lost: Sequence["_Decoder"]) -> "_Decoder":
        """The decoder with the fewest requests of a kind; another than those that are `lost`, if there is one.

        One that is being started comes last: requests would pile up before it.
        """
        others = [process for process in self._decoders if process not in lost]
        return min(others or self._decoders, key=lambda process: (process.is_starting, process.busy[kind]))


@dataclass(eq=False)
class _Process:
    """A process that has been started.

    Args:
        control: gets the ends of new connections; when it is closed the process ends.
        free: connections that are not used now.
    """

    process: BaseProcess
    control: socket.socket
    free: list[socket.socket] = field(default_factory=list)

    def end(self) -> None:
        self.control.close()
        while self.free:
            self.free.pop().close()


class _Decoder:
    """A decoder, and the one that is started in its place when its process has ended. Thread-safe.

    Attributes:
        busy: requests that it has now, by kind.
    """

    def __init__(self, number: int, settings: Settings, metrics: Metrics) -> None:
        self.number, self.busy = number, Counter[str]()
        self._settings, self._metrics = settings, metrics
        self._running: _Process | None = None
        self._is_closed = False
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        with self._lock:
            return self._started().process.pid or 0

    @property
    def is_starting(self) -> bool:
        """Whether a process is being started, or, for a moment, another request begins or ends."""
        return self._lock.locked()

    def start(self) -> None:
        with self._lock:
            self._started()

    def end(self) -> None:
        with self._lock:
            self._is_closed = True
            running, self._running = self._running, None
        if running is not None:
            running.end()
            running.process.join()

    @contextmanager
    def connection(self, kind: str) -> Iterator[socket.socket]:
        """A context with a connection for one request. If it fails with the connection, the process is replaced.

        Raises:
            OSError, EOFError: the process has ended, or none can be started.
        """
        with self._lock:
            running = self._started()
            stream = running.free.pop() if running.free else None
            self.busy[kind] += 1
        try:
            if stream is None:
                stream = _connected(running.control)
            yield stream
        except BaseException as error:
            if stream is not None:
                stream.close()
            if isinstance(error, OSError | EOFError):
                self._replace(running)
            raise
        else:
            self._metrics.decoder_requests.labels(str(self.number), kind).inc()
            running.free.append(stream)
        finally:
            with self._lock:
                self.busy[kind] -= 1

    def _started(self) -> _Process:
        if self._is_closed:
            raise EOFError("the decoders are closed")
        if self._running is None:
            self._running = _start(self.number, self._settings)
        return self._running

    def _replace(self, ended: _Process) -> None:
        with self._lock:
            if self._running is not ended:
                return  # another thread has noticed it before
            log.warning("decoder %d has ended, and is started again", self.number)
            self._running = None
            ended.end()
            self._metrics.decoder_restarts.inc()
            with suppress(OSError, EOFError):  # else the next request tries again
                self._started()


def _start(number: int, settings: Settings) -> _Process:
    control, far_end = socket.socketpair()
    context = multiprocessing.get_context("forkserver")
    process = context.Process(
        target=decoder.serve, args=(far_end, settings), name=f"decoder-{number}", daemon=True
    )
    try:
        with far_end:
            process.start()
    except BaseException:
        control.close()
        raise
    return _Process(process, control)


def _connected(control: socket.socket) -> socket.socket:
    """Make a connection and send its other end to the process.

    Raises:
        UnreadableError: this process has too many open files, which says nothing about the other one.
        OSError: the process has ended.
    """
    try:
        near_end, far_end = socket.socketpair()
    except OSError as error:
        raise UnreadableError(f"no connection to a decoder can be made: {error}", is_permanent=False) from error
    try:
        with far_end:
            socket.send_fds(control, [b"c"], [far_end.fileno()])
    except BaseException:
        near_end.close()
        raise
    return near_end
