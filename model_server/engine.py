"""The queue in front of the device, and the batches that form in it.

Three stages overlap: fetch (many threads), prepare (a thread per core), forward (one thread, which owns the
device). There is no timer: a batch is whatever waits when the device gets free, so a lone request waits for
nothing and under load the batches grow by themselves. What was computed before is answered at once.
"""

import logging
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from lorabel.contracts import Contract, Input, MediaRef, media_of
from lorabel.errors import LorabelError, ModelServerBusyError, UnreadableError
from lorabel.families.base import DigestOf
from lorabel.inference.messages import PredictRequest, PredictRow, Priority, RowError, RowResult
from model_server.fair_queue import FairQueue
from model_server.family_pool import FamilyPool, LoadedFamily, input_type
from model_server.files import File, Files
from model_server.metrics import Metrics

log = logging.getLogger(__name__)

RETRY_AFTER_S = 2
NO_MEMORY_ON_CPU = "can't allocate memory"
# Background rows of one project from their fetch to their answer: enough to keep every stage busy, and no more
# files in memory.
MOST_IN_HAND = 128
# Batches of the reduced size that must work before a larger one is tried again.
GROW_AFTER = 100
# A person who comes while a bulk job's batch is on the device waits for no longer than about this.
BACKGROUND_BATCH_S = 0.2


@dataclass(eq=False)
class _Row:
    """A question on its way through the stages; `loaded_family` once its family is loaded, `example` once it is
    prepared."""

    question: Input
    adapter: str | None
    project: int
    priority: Priority
    deadline: float
    done: "Future[RowResult]"
    files: dict[MediaRef, "Future[File]"] = field(default_factory=dict)
    loaded: LoadedFamily | None = None
    example: Any = None

    @property
    def loaded_family(self) -> LoadedFamily:
        assert self.loaded is not None
        return self.loaded

    def is_wanted(self) -> bool:
        """Whether anybody waits for the answer; says so to those who still do."""
        if not self.done.done() and time.monotonic() > self.deadline:
            self.end(_failed("timed out before the device was free"))
        return not self.done.done()

    def end(self, result: RowResult) -> None:
        # Its client may have hung up this moment.
        with suppress(InvalidStateError):
            self.done.set_result(result)


class Engine:
    """Thread-safe. `submit` returns at once; the futures never raise, a failed row is a result with an error.

    A future that is cancelled leaves the queues: what nobody waits for is not computed.
    """

    def __init__(
        self, family_pool: FamilyPool, files: Files, metrics: Metrics, *, max_batch: int, max_waiting: int
    ) -> None:
        self.max_batch = max_batch
        self.family_pool = family_pool
        self._files, self._metrics, self._max_waiting = files, metrics, max_waiting
        self._metrics.max_batch.set(max_batch)
        self._waiting: Counter[Priority] = Counter()
        self._lock = threading.Lock()
        self._row_s: dict[str, float] = {}
        self._most_rows, self._good = max_batch, 0
        self._in_hand: Counter[int] = Counter()
        self._to_fetch: defaultdict[int, FairQueue[_Row]] = defaultdict(FairQueue)
        self._to_prepare: FairQueue[_Row] = FairQueue()
        self._ready: FairQueue[_Row] = FairQueue()
        work = [self._run_prepare] * (os.cpu_count() or 1) + [self._run_device]
        self._threads = [threading.Thread(target=one, name=one.__name__, daemon=True) for one in work]
        for thread in self._threads:
            thread.start()

    @property
    def is_alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def submit(self, request: PredictRequest) -> list["Future[RowResult]"]:
        """One future per row, in order.

        Raises:
            ModelServerBusyError: too many rows of this priority wait already; nothing of this request was taken.
        """
        priority = request.priority
        with self._lock:
            if self._waiting[priority] >= self._max_waiting:
                raise ModelServerBusyError(
                    f"{self._waiting[priority]} rows are waiting, at most {self._max_waiting} may (MAX_WAITING)",
                    retry_after_s=RETRY_AFTER_S,
                )
            self._waiting[priority] += len(request.rows)
            self._metrics.waiting.labels(priority).set(self._waiting[priority])
        deadline = time.monotonic() + request.timeout_s
        futures = []
        for row in request.rows:
            done: Future[RowResult] = Future()
            done.add_done_callback(lambda done: self._count(done, priority))
            futures.append(done)
            with _failing(done, row.kind):
                self._arrive(self._row(row, request, deadline, done))
        return futures

    def preload(self, adapter: str) -> None:
        """Load an adapter into the banks of the loaded families that it fits.

        Raises:
            NotFoundError: there is no such folder.
            UnreadableError: it fits none.
        """
        refused: list[UnreadableError] = []
        family_pool = self.family_pool.loaded
        for loaded_family in family_pool:
            try:
                loaded_family.bank.load(adapter)
            except UnreadableError as error:
                refused.append(error)
        if refused and len(refused) == len(family_pool):
            raise refused[0]

    def close(self) -> None:
        self._files.close()
        self._to_prepare.close()
        self._ready.close()
        for thread in self._threads:
            thread.join()

    def _row(self, row: PredictRow, request: PredictRequest, deadline: float, done: "Future[RowResult]") -> _Row:
        question = input_type(row.kind).model_validate(row.input)
        return _Row(question, row.adapter, request.project, request.priority, deadline, done)

    def _arrive(self, row: _Row) -> None:
        """Begin when the row's family is loaded."""

        def begin(found: "Future[LoadedFamily]") -> None:
            with _failing(row.done, row.question.kind):
                row.loaded = found.result()
                if row.is_wanted():
                    self._begin(row)

        self.family_pool.of(row.question).add_done_callback(begin)

    def _begin(self, row: _Row) -> None:
        """Answer from memory, or send for the files."""
        if self._is_answered(row, lambda media: self._files.known_digest(row.project, media)):
            return
        if row.example is not None:
            self._ready.put(row)
        elif row.priority == Priority.INTERACTIVE:
            self._fetch(row)
        else:
            self._admit(row.project, row)

    def _admit(self, project: int, newcomer: _Row | None = None) -> None:
        """Send for the files of the project's background rows, as many as may be in hand."""
        while True:
            with self._lock:
                waiting = self._to_fetch[project]
                if newcomer is not None:
                    waiting.put(newcomer)
                    newcomer = None
                if not len(waiting):
                    del self._to_fetch[project]
                    return
                if self._in_hand[project] >= MOST_IN_HAND:
                    return
                row = waiting.get()
            if row is not None and row.is_wanted():
                with self._lock:
                    self._in_hand[project] += 1
                row.done.add_done_callback(lambda _: self._release(project))
                self._fetch(row)

    def _release(self, project: int) -> None:
        """However the row ended: answered, failed, given up."""
        with self._lock:
            self._in_hand[project] -= 1
            if not self._in_hand[project]:
                del self._in_hand[project]
        self._admit(project)

    def _fetch(self, row: _Row) -> None:
        """Every file of the row; the last one to arrive brings it to the next stage."""
        wanted = set(media_of(row.question)) if row.is_wanted() else set()
        missing = len(wanted)
        lock = threading.Lock()

        def arrived(_: Any) -> None:
            nonlocal missing
            with lock:
                missing -= 1
                is_last = missing == 0
            if is_last:
                self._to_prepare.put(row)

        row.files = {media: self._files.get(row.project, media, row.priority) for media in wanted}
        for file in list(row.files.values()):
            file.add_done_callback(arrived)
        if not wanted:
            self._to_prepare.put(row)

    def _is_answered(self, row: _Row, digest_of: DigestOf) -> bool:
        """Whether no file is needed for the answer, nor the device. Keeps what it found on the way."""
        family, bank, cache = row.loaded_family.family, row.loaded_family.bank, row.loaded_family.cache
        example = family.recall(row.question, digest_of, row.adapter, bank, cache)
        if example is None:
            return False
        output = family.answer(example, row.adapter, bank, cache)
        if output is None:
            row.example = example
            return False
        row.end(RowResult(output=output.model_dump()))
        return True

    def _run_prepare(self) -> None:
        while self._prepare_one():
            """A thread that waits for the next row must not keep the last one's files."""

    def _prepare_one(self) -> bool:
        row = self._to_prepare.get()
        if row is None:
            return False
        files, row.files = row.files, {}
        if row.is_wanted():
            with _failing(row.done, row.question.kind):
                self._prepare(row, {media: file.result() for media, file in files.items()})
        return True

    def _prepare(self, row: _Row, files: dict[MediaRef, File]) -> None:
        if row.adapter is not None:
            row.loaded_family.bank.load(row.adapter)
        if self._is_answered(row, lambda media: files[media].digest):
            return
        if row.example is None:
            row.example = row.loaded_family.family.prepare(row.question, lambda media: files[media].data)
        self._ready.put(row)

    def _run_device(self) -> None:
        while self._compute_one():
            """As in the other threads: nothing is kept while it waits."""

    def _compute_one(self) -> bool:
        batch = self._ready.get_batch(self._most, lambda row: row.loaded_family.family.name)
        wanted = [row for row in batch if row.is_wanted()]
        if wanted:
            self._compute(wanted)
        return bool(batch)

    def _most(self, first: _Row) -> int:
        row_s = self._row_s.get(first.loaded_family.family.name)
        if first.priority == Priority.INTERACTIVE or not row_s:
            return self.max_batch
        return min(self.max_batch, max(1, int(BACKGROUND_BATCH_S / row_s)))

    def _compute(self, batch: list[_Row]) -> None:
        """Where memory ran out, and no row alone was to blame, batches are smaller from now on."""
        failed: list[int] = []
        worked = self._try(batch, failed)
        if not failed:
            self._grow(len(batch))
        elif worked < self.max_batch and min(failed) > 1:
            self._limit_batches(worked)

    def _try(self, batch: list[_Row], failed: list[int]) -> int:
        """The most rows that went through at once. What fails is halved, down to the row that is to blame.

        Args:
            failed: gets the sizes for which memory ran out.
        """
        try:
            for row, output in self._forward(batch):
                row.end(RowResult(output=output.model_dump()))
        except Exception as error:
            if is_memory := _is_out_of_memory(error):
                failed.append(len(batch))
            if len(batch) == 1:
                log.exception("a row failed on the device")
                batch[0].end(_failed(f"{type(error).__name__}: {error}"))
                return 0
            log.warning("a batch of %d rows is halved: %s: %s", len(batch), type(error).__name__, error)
        else:
            return len(batch)
        # Only here, where the error is gone, is what its frames hold on the device free again.
        if is_memory and torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = len(batch) // 2
        return max(self._try(batch[:half], failed), self._try(batch[half:], failed))

    def _grow(self, rows: int) -> None:
        """Memory that somebody else needed for a while may be free again."""
        if self.max_batch == self._most_rows or rows < self.max_batch:
            return
        self._good += 1
        if self._good >= GROW_AFTER:
            self._limit_batches(min(self._most_rows, 2 * self.max_batch))

    def _limit_batches(self, rows: int) -> None:
        self.max_batch, self._good = rows, 0
        self._metrics.max_batch.set(rows)
        log.warning("batches have at most %d rows from now on", rows)

    def _forward(self, batch: list[_Row]) -> list[tuple[_Row, Contract]]:
        loaded_family = batch[0].loaded_family
        self._metrics.batch.observe(len(batch))
        began = time.monotonic()
        outputs = loaded_family.family.predict(
            [row.example for row in batch], [row.adapter for row in batch], loaded_family.bank, loaded_family.cache
        )
        took = time.monotonic() - began
        self._metrics.forward.observe(took)
        row_s = took / len(batch)
        self._row_s[loaded_family.family.name] = (self._row_s.get(loaded_family.family.name, row_s) + row_s) / 2
        return list(zip(batch, outputs, strict=True))

    def _count(self, done: "Future[RowResult]", priority: Priority) -> None:
        with self._lock:
            self._waiting[priority] -= 1
            self._metrics.waiting.labels(priority).set(self._waiting[priority])
        outcome = "cancelled" if done.cancelled() else "error" if done.result().error else "ok"
        self._metrics.rows.labels(priority, outcome).inc()


@contextmanager
def _failing(done: "Future[RowResult]", kind: str) -> Iterator[None]:
    """What goes wrong inside is the row's error and nobody else's."""
    try:
        yield
    except UnreadableError as error:
        result = _failed(str(error), error.is_permanent)
    except (LorabelError, ValueError, OSError) as error:
        result = _failed(f"{type(error).__name__}: {error}")
    except Exception as error:
        log.exception("a row of kind %s could not be prepared", kind)
        result = _failed(f"{type(error).__name__}: {error}")
    else:
        return
    with suppress(InvalidStateError):
        done.set_result(result)


def _failed(reason: str, is_permanent: bool = False) -> RowResult:
    return RowResult(error=RowError(reason=reason, is_permanent=is_permanent))


def _is_out_of_memory(error: Exception) -> bool:
    """CUDA has a type for it, the CPU's allocator only words."""
    return isinstance(error, torch.OutOfMemoryError) or NO_MEMORY_ON_CPU in str(error)
