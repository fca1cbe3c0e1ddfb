"""The queue in front of the device, and the batches that form in it.

Three stages overlap: fetch and decode (threads), form a batch, forward (one thread, which owns the device).
There is no timer: a batch is whatever waits when the device gets free, so a lone request waits for nothing
and under load the batches grow by themselves.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from cachetools import LRUCache
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lorabel.contracts import MediaRef
from lorabel.errors import LorabelError, ModelServerBusyError, UnreadableError
from lorabel.families import Family
from lorabel.messages import PredictRow, RowError, RowResult
from model_server.adapters import AdapterBank

log = logging.getLogger(__name__)

PREPARE_THREADS = 16
MEMO_ENTRIES = 4096
RETRY_AFTER_S = 2
NO_MEMORY_ON_CPU = "can't allocate memory"


@dataclass(frozen=True)
class Station:
    """A loaded family with its adapters and the memo of its text features."""

    family: Family
    bank: AdapterBank
    memo: LRUCache[Any, Any] = field(default_factory=lambda: LRUCache(MEMO_ENTRIES))


@dataclass(frozen=True)
class _Ready:
    """A prepared row that waits for the device."""

    station: Station
    example: Any
    adapter: str | None
    deadline: float
    done: Future[RowResult]


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.rows = Counter("lorabel_rows", "Rows by outcome", ["outcome"], registry=registry)
        self.waiting = Gauge("lorabel_rows_waiting", "Rows that wait for the device", registry=registry)
        sizes = (1, 2, 4, 8, 16, 32, 64, 128, 256)
        self.batch = Histogram("lorabel_batch_rows", "Rows per forward pass", buckets=sizes, registry=registry)
        self.forward = Histogram("lorabel_forward_seconds", "Time of a forward pass", registry=registry)
        self.max_batch = Gauge("lorabel_max_batch", "Most rows per forward pass", registry=registry)


class Engine:
    """Thread-safe. `submit` returns at once; the futures never raise, a failed row is a result with an error."""

    def __init__(
        self,
        stations: Sequence[Station],
        fetch: Callable[[MediaRef], bytes],
        metrics: Metrics,
        *,
        max_batch: int,
        max_waiting: int,
    ) -> None:
        self.max_batch = max_batch
        self._stations = {station.family.input_type.kind: station for station in stations}
        self._fetch, self._metrics, self._max_waiting = fetch, metrics, max_waiting
        self._metrics.max_batch.set(max_batch)
        self._waiting = 0
        self._ready: deque[_Ready] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._threads = ThreadPoolExecutor(PREPARE_THREADS, thread_name_prefix="prepare")
        self._device_thread = threading.Thread(target=self._run_device, name="device", daemon=True)
        self._device_thread.start()

    @property
    def stations(self) -> list[Station]:
        return list(self._stations.values())

    def submit(self, rows: Sequence[PredictRow], timeout_s: float) -> list[Future[RowResult]]:
        """One future per row, in order.

        Raises:
            ModelServerBusyError: too many rows wait already; nothing of this request was taken.
        """
        with self._changed:
            if self._waiting >= self._max_waiting:
                raise ModelServerBusyError(
                    f"{self._waiting} rows are waiting, at most {self._max_waiting} may (MAX_WAITING)",
                    retry_after_s=RETRY_AFTER_S,
                )
            self._waiting += len(rows)
            self._metrics.waiting.set(self._waiting)
        deadline = time.monotonic() + timeout_s
        futures = []
        for row in rows:
            done: Future[RowResult] = Future()
            done.add_done_callback(self._count)
            self._threads.submit(self._prepare, row, deadline, done)
            futures.append(done)
        return futures

    def preload(self, adapter: str) -> None:
        """Load an adapter into the bank of the family that it fits.

        Raises:
            NotFoundError: there is no such folder.
            UnreadableError: it fits none.
        """
        refused: list[UnreadableError] = []
        for station in self.stations:
            try:
                station.bank.load(adapter)
                return
            except UnreadableError as error:
                refused.append(error)
        raise refused[0]

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._threads.shutdown(cancel_futures=True)
        self._device_thread.join()

    def _prepare(self, row: PredictRow, deadline: float, done: Future[RowResult]) -> None:
        try:
            station = self._stations.get(row.kind)
            if station is None:
                known = ", ".join(self._stations)
                raise UnreadableError(f"no family here serves {row.kind!r}; served: {known}", is_permanent=False)
            if time.monotonic() > deadline:
                raise UnreadableError("timed out before it was fetched", is_permanent=False)
            question = station.family.input_type.model_validate(row.input)
            if row.adapter is not None:
                station.bank.load(row.adapter)
            example = station.family.prepare(question, self._fetch)
        except UnreadableError as error:
            done.set_result(_failed(str(error), error.is_permanent))
        except (LorabelError, ValueError, OSError) as error:
            done.set_result(_failed(f"{type(error).__name__}: {error}"))
        except Exception as error:
            log.exception("a row of kind %s could not be prepared", row.kind)
            done.set_result(_failed(f"{type(error).__name__}: {error}"))
        else:
            with self._changed:
                self._ready.append(_Ready(station, example, row.adapter, deadline, done))
                self._changed.notify()

    def _run_device(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._is_closed)
                if self._is_closed:
                    return
                batch = self._take_batch()
            self._compute(batch)

    def _take_batch(self) -> list[_Ready]:
        """The oldest row and those behind it of the same family, up to the limit."""
        station = self._ready[0].station
        batch: list[_Ready] = []
        others: deque[_Ready] = deque()
        while self._ready and len(batch) < self.max_batch:
            row = self._ready.popleft()
            (batch if row.station is station else others).append(row)
        self._ready.extendleft(reversed(others))
        return batch

    def _compute(self, batch: list[_Ready]) -> None:
        late = [row for row in batch if time.monotonic() > row.deadline]
        for row in late:
            row.done.set_result(_failed("timed out before the device was free"))
        batch = [row for row in batch if not row.done.done()]
        if not batch:
            return
        try:
            outputs = self._forward(batch)
        except Exception as error:
            if not _is_out_of_memory(error) or len(batch) == 1:
                log.exception("a batch of %d rows failed", len(batch))
                for row in batch:
                    row.done.set_result(_failed(f"{type(error).__name__}: {error}"))
                return
        else:
            for row, output in zip(batch, outputs, strict=True):
                row.done.set_result(RowResult(output=output.model_dump()))
            return
        # Only here, where the error is gone, is what its frames hold on the device free again.
        self._halve(batch)

    def _forward(self, batch: list[_Ready]) -> Sequence[Any]:
        station = batch[0].station
        self._metrics.batch.observe(len(batch))
        with self._metrics.forward.time():
            return station.family.predict(
                [row.example for row in batch], [row.adapter for row in batch], station.bank.rows, station.memo
            )

    def _halve(self, batch: list[_Ready]) -> None:
        half = len(batch) // 2
        self.max_batch = min(self.max_batch, half)
        self._metrics.max_batch.set(self.max_batch)
        log.warning("out of memory with %d rows: batches have at most %d from now on", len(batch), self.max_batch)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._compute(batch[:half])
        self._compute(batch[half:])

    def _count(self, done: Future[RowResult]) -> None:
        with self._changed:
            self._waiting -= 1
            self._metrics.waiting.set(self._waiting)
        outcome = "cancelled" if done.cancelled() else "error" if done.result().error else "ok"
        self._metrics.rows.labels(outcome).inc()


def _failed(reason: str, is_permanent: bool = False) -> RowResult:
    return RowResult(error=RowError(reason=reason, is_permanent=is_permanent))


def _is_out_of_memory(error: Exception) -> bool:
    """CUDA has a type for it, the CPU's allocator only words."""
    return isinstance(error, torch.OutOfMemoryError) or NO_MEMORY_ON_CPU in str(error)
