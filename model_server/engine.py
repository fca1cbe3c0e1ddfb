"""Computes rows of predict requests on the device, in batches.

A row goes through three stages, which work at the same time on different rows: fetch its files (many threads),
prepare (some threads per core), forward (one thread, which alone uses the device). A batch consists of the rows
that wait when the device becomes free, so no person's row waits for others, and batches grow with the load;
background rows wait a moment for others of their project that are on their way. A row whose answer the feature
cache holds skips the stages that it does not need.

Rows of families that answer step by step join `model_server.stepping` in place of a batch. Between two of its
steps go all batches of people that wait, or one background batch.
"""

import logging
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch

from lorabel.contracts import Contract, MediaRef, media_of
from lorabel.errors import ModelServerBusyError
from lorabel.families.base import DigestOf
from lorabel.families.core_threads import compute_with, on_one_core
from lorabel.families.encoders.picture_reading import reading_by
from lorabel.families.generation.stepwise import StepwiseFamily
from lorabel.inference.messages import PredictRequest, PredictRow, Priority, RowResult
from lorabel.settings import Settings
from model_server.batch_sizes import GATHER_S, BatchSizes
from model_server.device_errors import is_device_lost, is_out_of_memory
from model_server.fair_queue import FairQueue
from model_server.family_pool import FamilyPool, LoadedFamily, input_type
from model_server.files import File, Files
from model_server.heads import Heads
from model_server.metrics import Metrics
from model_server.pipelines import begin
from model_server.prepared_memory import PreparedMemory
from model_server.project_limit import ProjectLimit
from model_server.rows import Row, batch_rows, errors_as_result, failure_of, preparing, rows_of, shared_videos
from model_server.stepping import Stepping
from model_server.video_parts import VideoParts
from model_server.waiting import RETRY_AFTER_S, WaitingRows

log = logging.getLogger(__name__)

# Background rows of one project between the start of their fetch and their answer: enough to keep every stage
# busy, and a limit to the files in memory.
MAX_IN_PROGRESS = 128
# Prepare threads. A project has no more of them than there are cores, so that its slow files leave some to others.
THREADS_PER_CORE = 2
# Background batches of a project and family that are prepared ahead, with the one that the device computes. Were
# all rows of a request prepared at once, a step, and a click that waits, would take up to three times as long.
BATCHES_AHEAD = 3
# Bytes of the prepared rows of a family; background rows wait. A picture for a model that writes may have 22 MB.
PREPARED_BYTES = 512 * 2**20


class Engine:
    """Answers predict requests on one device. Thread-safe.

    Args:
        family_pool: the families that answer.
        files: fetches the files of questions; is closed with the engine.
        heads: the fitted heads that rows name.
        max_batch: most rows per forward pass.
        max_waiting: most rows per priority that may wait, and so most rows of a request.
        settings: say whether videos are also understood by their sound and what is said in them; None: by frames.
        on_failure: called once, in a thread that cannot go on: the device is lost. Only a new process can compute.
    """

    def __init__(
        self,
        family_pool: FamilyPool,
        files: Files,
        heads: Heads,
        metrics: Metrics,
        *,
        max_batch: int,
        max_waiting: int,
        settings: Settings | None = None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        cores, self._torch_threads = os.cpu_count() or 1, torch.get_num_threads()
        self.sizes = BatchSizes(max_batch, self._torch_threads, metrics)
        self.family_pool, self._heads = family_pool, heads
        self._files, self._metrics, self._waiting = files, metrics, WaitingRows(max_waiting, metrics)
        self._lock = threading.Lock()
        self._on_failure, self._has_failed = on_failure, False
        self._in_progress: Counter[int] = Counter()
        self._to_fetch: defaultdict[int, FairQueue[Row]] = defaultdict(FairQueue)
        self._to_prepare: FairQueue[Row] = FairQueue()
        self._preparing: ProjectLimit[Row] = ProjectLimit(lambda _: cores)
        self._ahead: ProjectLimit[Row] = ProjectLimit(
            lambda row: BATCHES_AHEAD * self.sizes.most(row),
            key=lambda row: (row.project, row.loaded_family.family.name),
        )
        self._prepared_memory = PreparedMemory(PREPARED_BYTES, self._to_prepare.put)
        self._ready: FairQueue[Row] = FairQueue()
        self._stepping = Stepping(max_batch)
        self._video_parts: VideoParts | None = None
        if settings is not None and settings.hears_videos:
            self._video_parts = VideoParts(settings, files, family_pool, heads, metrics, self._start_when_loaded)
        loops = [self._run_prepare] * (THREADS_PER_CORE * cores) + [self._run_device]
        self._threads = [
            threading.Thread(target=self._run, args=(loop,), name=loop.__name__, daemon=True) for loop in loops
        ]
        for thread in self._threads:
            thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether all threads of the engine run, and none of them has failed."""
        return not self._has_failed and all(thread.is_alive() for thread in self._threads)

    def submit(self, request: PredictRequest) -> list["Future[RowResult]"]:
        """Take a request without waiting for its answers.

        Returns:
            One future per row, in the same order. They never raise: a row that fails is a result with an error. A
            row whose future is cancelled is not computed.

        Raises:
            ModelServerBusyError: the rows do not fit beside those of this priority that wait, or the engine has
                failed; no row of this request was taken.
            RequestTooLargeError: the request has more rows than may wait at all.
        """
        priority = request.priority
        self._reserve(priority, len(request.rows))
        if priority == Priority.INTERACTIVE:
            self.sizes.note_person()
        deadline = time.monotonic() + request.timeout_s
        futures, shared = [], shared_videos(request.rows)
        for row in request.rows:
            done: Future[RowResult] = Future()
            done.add_done_callback(lambda done: self._count(done, priority))
            futures.append(done)
            with errors_as_result(done, row.kind):
                new_row = self._row(row, request, deadline, done)
                new_row.shared_videos = shared
                if self._video_parts is None or not self._video_parts.begin(new_row):
                    begin(new_row, self._start_when_loaded, self._metrics)
        return futures

    def close(self) -> None:
        """End the threads. Rows that wait are not answered."""
        if self._video_parts is not None:
            self._video_parts.close()
        self._files.close()
        self._to_prepare.close()
        self._ready.close()
        for thread in self._threads:
            thread.join()

    def _reserve(self, priority: Priority, rows: int) -> None:
        """Count the rows of a new request as waiting; see `submit` for what is raised."""
        if self._has_failed:
            raise ModelServerBusyError(
                "the device is lost; the model server starts anew", retry_after_s=RETRY_AFTER_S
            )
        self._waiting.reserve(priority, rows)

    def _run(self, loop: Callable[[], None]) -> None:
        """Run a thread's loop. An exception that leaves it is a failure of the engine."""
        try:
            loop()
        except Exception:
            with self._lock:
                is_first, self._has_failed = not self._has_failed, True
            log.critical("the engine cannot go on; the process must be started anew", exc_info=True)
            if is_first:
                self._on_failure()

    def _row(self, row: PredictRow, request: PredictRequest, deadline: float, done: "Future[RowResult]") -> Row:
        question = input_type(row.kind).model_validate(row.input)
        return Row(question, row.adapter, row.head, request.project, request.priority, deadline, done)

    def _start_when_loaded(self, row: Row) -> None:
        def start(loaded: "Future[LoadedFamily]") -> None:
            with errors_as_result(row.done, row.question.kind):
                row.loaded = loaded.result()
                if row.is_wanted():
                    self._start(row)

        self.family_pool.get_or_load(row.question).add_done_callback(start)

    def _start(self, row: Row) -> None:
        """Answer the row from the cache, or put it into the first stage that it needs."""
        if self._answer_from_cache(row, lambda media: self._files.recent_digest(row.project, media)):
            return
        if row.example is not None:
            self._ready.put(row)
        elif row.priority == Priority.INTERACTIVE:
            self._fetch(row)
        else:
            self._fetch_background(row.project, row)

    def _fetch_background(self, project: int, new_row: Row | None = None) -> None:
        """Queue a new background row, then fetch the project's queued rows up to MAX_IN_PROGRESS."""
        while True:
            with self._lock:
                queue = self._to_fetch[project]
                if new_row is not None:
                    queue.put(new_row)
                    new_row = None
                if not len(queue):
                    del self._to_fetch[project]
                    return
                if self._in_progress[project] >= MAX_IN_PROGRESS:
                    return
                row = queue.get()
            if row is not None and row.is_wanted():
                with self._lock:
                    self._in_progress[project] += 1
                row.done.add_done_callback(lambda _: self._end_background(project))
                self._fetch(row)

    def _end_background(self, project: int) -> None:
        """A background row was answered, has failed or was cancelled: fetch the project's next one."""
        with self._lock:
            self._in_progress[project] -= 1
            if not self._in_progress[project]:
                del self._in_progress[project]
        self._fetch_background(project)

    def _fetch(self, row: Row) -> None:
        """Fetch all files of the row; the last file to arrive puts the row into the prepare stage."""
        media_refs = set(media_of(row.question)) if row.is_wanted() else set()
        missing = len(media_refs)
        lock = threading.Lock()

        def count_file(_: Any) -> None:
            nonlocal missing
            with lock:
                missing -= 1
                is_last = missing == 0
            if is_last:
                self._to_prepare.put(row)

        held, row.held = row.held, {}
        row.files = {
            media: held.get(media) or self._files.get(row.project, media, row.priority) for media in media_refs
        }
        for file in list(row.files.values()):
            file.add_done_callback(count_file)
        if not media_refs:
            self._to_prepare.put(row)

    def _answer_from_cache(self, row: Row, digest_of: DigestOf) -> bool:
        """Answer the row without the device if the cache allows it; True if so.

        Sets `row.example` if the cache at least saves preparing.
        """
        family, bank, cache = row.loaded_family.family, row.loaded_family.adapter_bank, row.loaded_family.cache
        example = family.recall(row.question, digest_of, row.adapter, bank, cache)
        if example is None:
            return False
        example = self._heads.apply(row.head, example, family, row.adapter, bank)
        output = None if example is None else family.answer(example, row.adapter, bank, cache)
        if output is None:
            row.example = example
            return False
        row.finish(RowResult(output=output.model_dump()))
        return True

    def _run_prepare(self) -> None:
        with reading_by(self._files.read_picture), on_one_core():
            while self._prepare_next():
                """A separate function, so that the waiting thread holds no reference to the last files."""

    def _prepare_next(self) -> bool:
        row = self._to_prepare.get()
        if row is None:
            return False
        if not self._preparing.begin(row):
            return True
        if self._may_be_prepared(row):
            files, row.files = row.files, {}
            if row.is_wanted():
                with preparing(row):
                    self._prepare(row, {media: file.result() for media, file in files.items()})
        self._end(self._preparing, row)
        return True

    def _may_be_prepared(self, row: Row) -> bool:
        """False if enough background rows like this are ready; the row comes again when one is answered."""
        if row.priority == Priority.INTERACTIVE:
            return True
        if not self._prepared_memory.begin(row) or not self._ahead.begin(row):
            return False
        row.done.add_done_callback(lambda _: self._end(self._ahead, row))
        return True

    def _end(self, limit: ProjectLimit[Row], row: Row) -> None:
        for next_row in limit.end(row):
            self._to_prepare.put(next_row)

    def _prepare(self, row: Row, files: dict[MediaRef, File]) -> None:
        if row.adapter is not None:
            row.loaded_family.adapter_bank.load(row.adapter)
        if self._answer_from_cache(row, lambda media: files[media].digest):
            return
        if row.example is None:
            family, bank = row.loaded_family.family, row.loaded_family.adapter_bank
            example = family.prepare(row.question, lambda media: files[media].data)
            row.example = self._heads.apply(row.head, example, family, row.adapter, bank)
            self._prepared_memory.hold(row)
        self._ready.put(row)

    def _run_device(self) -> None:
        compute_with(self._torch_threads)  # before a thread that prepares sets its own number
        while self._compute_next():
            """A separate function, so that the waiting thread holds no reference to the last batch."""

    def _compute_next(self) -> bool:
        if is_idle := not self._stepping.has_rows:
            self._ready.gather(lambda row: self.sizes.wanted(row, self._in_progress[row.project]), GATHER_S)
        batch = self._ready.get_batch(
            self.sizes.most, lambda row: row.loaded_family.family.name, rows_of, is_patient=is_idle
        )
        if self._ready.is_closed:
            return False
        wanted_rows = [row for row in batch if row.is_wanted()]
        if wanted_rows and isinstance(wanted_rows[0].loaded_family.family, StepwiseFamily):
            self._stepping.add(wanted_rows)
        elif wanted_rows:
            self._compute_or_fail(wanted_rows)
            if wanted_rows[0].priority == Priority.INTERACTIVE:
                return True  # other people's batches go before the next step, too
        self._stepping.step()
        return True

    def _compute_or_fail(self, rows: list[Row]) -> None:
        try:
            self._compute(rows)
        except Exception as error:
            for row in rows:
                row.finish(failure_of(error))
            raise

    def _compute(self, batch: list[Row]) -> None:
        """Compute a batch. If memory ran out, and not for a single row only, later batches are smaller."""
        failed_sizes: list[int] = []
        with self._metrics.counting_device_time():
            largest_size = self._try(batch, failed_sizes)
        if not failed_sizes:
            self.sizes.grow(batch_rows(batch))
        elif largest_size < self.sizes.max_batch and min(failed_sizes) > 1:
            self.sizes.limit(largest_size)

    def _try(self, batch: list[Row], failed_sizes: list[int]) -> int:
        """Compute a batch; if that fails, compute its halves, down to the single row that is at fault.

        Args:
            failed_sizes: gets the rows of the batches for which memory ran out; 1 for a single input.

        Returns:
            The rows of the largest batch that was computed, 0 if none was.

        Raises:
            RuntimeError: the device is lost.
        """
        try:
            for row, output in self._forward(batch):
                row.finish(RowResult(output=output.model_dump()))
        except Exception as error:
            if is_device_lost(error):
                raise
            if is_memory := is_out_of_memory(error):
                failed_sizes.append(1 if len(batch) == 1 else batch_rows(batch))
            if len(batch) == 1:
                log.exception("a row failed on the device")
                batch[0].finish(failure_of(error))
                return 0
            log.warning("a batch of %d rows is halved: %s: %s", len(batch), type(error).__name__, error)
        else:
            return batch_rows(batch)
        # After the except clause: the error's frames hold tensors, which can be freed only when the error is gone.
        if is_memory and torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = len(batch) // 2
        return max(self._try(batch[:half], failed_sizes), self._try(batch[half:], failed_sizes))

    def _forward(self, batch: list[Row]) -> list[tuple[Row, Contract]]:
        loaded, family = batch[0].loaded_family, batch[0].loaded_family.family
        self._metrics.batch.observe(len(batch))
        started = time.monotonic()
        examples, adapters = [row.example for row in batch], [row.adapter for row in batch]
        outputs = family.predict(examples, adapters, loaded.adapter_bank, loaded.cache)
        forward_s = time.monotonic() - started
        self._metrics.forward.observe(forward_s)
        self.sizes.learn(family, batch_rows(batch), forward_s)
        return list(zip(batch, outputs, strict=True))

    def _count(self, done: "Future[RowResult]", priority: Priority) -> None:
        self._waiting.release(priority)
        outcome = "cancelled" if done.cancelled() else "error" if done.result().error else "ok"
        self._metrics.rows.labels(priority, outcome).inc()
