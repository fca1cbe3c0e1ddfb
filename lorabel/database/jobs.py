"""Puts jobs on the RQ queues. A job is a function's dotted path with JSON arguments.

Losing a job does no harm: the database says what there is to do, and the sweep (`workers/requeue_sweep.py`) puts
the job on its queue again. Only what is to be forgotten (`workers/forget.py`) has to be asked for again.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from cachetools import TTLCache
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer

from lorabel.database.predicted_tasks import PredictedTasks
from lorabel.database.tables import BulkRun, BulkRunKind, Project
from lorabel.settings import Settings

log = logging.getLogger(__name__)

LIGHT = "light"
TRAIN = "train"
BULK = "bulk"
LOOKAHEAD = "lookahead"
COLLECT_JOB = "workers.collect.collect"
FINETUNE_JOB = "workers.finetune.finetune"
BULK_JOBS: Mapping[str, str] = MappingProxyType(
    {
        BulkRunKind.PREDICTIONS: "workers.preannotate.preannotate",
        BulkRunKind.ORDER: "workers.order.order",
        BulkRunKind.ORDER_RENEWAL: "workers.order.order",
        BulkRunKind.LABEL_ERRORS: "workers.label_errors.find_label_errors",
        BulkRunKind.ACCEPTANCE: "workers.accept_tasks.accept_tasks",
        BulkRunKind.ACCEPTANCE_UNDO: "workers.accept_tasks.undo",
        BulkRunKind.INDEX: "workers.index_tasks.index_tasks",
    }
)
LOOKAHEAD_JOB = "workers.lookahead.look_ahead"
FORGET_JOB = "workers.forget.forget"
# A worker calls no other function, whatever somebody writes to Redis (`workers/worker.py`).
JOB_FUNCTIONS = frozenset({COLLECT_JOB, FINETUNE_JOB, *BULK_JOBS.values(), LOOKAHEAD_JOB, FORGET_JOB})
FAILURE_TTL_S = 24 * 3600
LOOKAHEAD_PAUSE_S = 1.0
ANSWER_S = 0.3
MOST_LOOKED_AHEAD = 10_000
COLLECT_LINGER_S = 0.2  # from the time when the job first reads pending events to the last time


class Jobs:
    """Puts jobs on the queues. Thread-safe.

    Errors of Redis are logged and returned as False. Connecting takes 0.2 s at most.

    Args:
        answer_s: seconds that each answer may take; what serves a request cannot wait long.

    Attributes:
        predicted: what the look-ahead has predicted.
    """

    def __init__(self, settings: Settings, answer_s: float = ANSWER_S) -> None:
        self._ahead_tasks = settings.ahead_tasks
        self._collected_until = 0.0
        # Projects whose look-ahead was queued, or found waiting, a moment ago.
        self._looked_ahead: TTLCache[str, bool] = TTLCache(MOST_LOOKED_AHEAD, LOOKAHEAD_PAUSE_S, time.monotonic)
        self._looked_ahead_lock = threading.Lock()
        self.redis = Redis.from_url(
            settings.redis,
            socket_connect_timeout=0.2,
            socket_timeout=answer_s,
            retry=Retry(NoBackoff(), 0),
        )
        self.predicted = PredictedTasks(self.redis)

    def collect(self, event_id: int) -> bool:
        """Have pending events applied. Call this after the event is committed.

        Another job of this kind that waits will find the event, so then none is added. Redis is not asked again
        for COLLECT_LINGER_S / 2: a job that was waiting when Redis was asked starts later than that, and reads
        events until COLLECT_LINGER_S after its start.

        Returns:
            False if Redis cannot be reached; the next sweep then applies the event.
        """
        asked_at = time.monotonic()
        if asked_at < self._collected_until:
            return True
        is_queued = self._enqueue(LIGHT, COLLECT_JOB, [], f"collect-{event_id}", _has_collect)
        if is_queued:
            self._collected_until = asked_at + COLLECT_LINGER_S / 2
        return is_queued

    def train(self, run_id: int, attempt: int = 1) -> bool:
        """Have a training run done, unless its job is waiting already.

        Two jobs for one run do no harm, since only one of them can claim it.

        Returns:
            False if Redis cannot be reached; the next sweep then adds the job.
        """
        job_id = f"train-{run_id}-{attempt}"
        return self._enqueue(TRAIN, FINETUNE_JOB, [run_id], job_id)

    def carry_out(self, run: BulkRun) -> bool:
        """Have a bulk run done, as `train` does. The cursor is in the job's id, since a run that let another run
        go first needs a new job."""
        job_id = f"bulk-{run.id}-{run.attempt}-{run.cursor}"
        return self._enqueue(BULK, BULK_JOBS[run.kind], [run.id], job_id)

    def look_ahead(
        self, project_id: int, *, after: int = 0, event_id: int | None = None, project: Project | None = None
    ) -> bool:
        """Have tasks predicted before an annotator opens them.

        At most one such job per project waits (and one per event), and Redis is not asked again for
        LOOKAHEAD_PAUSE_S. A lost job is not replaced, because nobody waits for its predictions.

        Args:
            after: predict the next open tasks after this task id.
            event_id: predict the tasks that this event brought instead.
            project: the project's row, if the caller has it: no job is added while enough tasks are predicted.

        Returns:
            False if Redis cannot be reached, or if AHEAD_TASKS is 0.
        """
        if not self._ahead_tasks:
            return False
        job_id = f"lookahead-{project_id}" if event_id is None else f"lookahead-{project_id}-{event_id}"
        with self._looked_ahead_lock:
            if job_id in self._looked_ahead:
                return True
            self._looked_ahead[job_id] = True

        def has_enough(queue: Queue) -> bool:
            is_far_enough = project is not None and self.is_far_enough(project, after)
            return is_far_enough or self._is_waiting(queue, job_id)

        if self._enqueue(LOOKAHEAD, LOOKAHEAD_JOB, [project_id, after, event_id], job_id, has_enough):
            return True
        with self._looked_ahead_lock:
            self._looked_ahead.pop(job_id, None)
        return False

    def is_far_enough(self, project: Project, after: int) -> bool:
        """Whether enough tasks after this one are predicted: Label Studio is not asked after each of them."""
        return self.predicted.count_after(project, after) > self._ahead_tasks // 2

    def forget(self, project_id: int, sealed: str) -> bool:
        """Have a project, a task or what an annotator did deleted.

        Args:
            project_id: in the job's id, by which `forgotten_jobs.remove_jobs` finds it.
            sealed: by `lorabel.database.forget_requests`, since others may be able to write to Redis.

        Returns:
            False if Redis cannot be reached. No sweep adds the job later.
        """
        return self._enqueue(LIGHT, FORGET_JOB, [sealed], f"forget-{project_id}-{uuid4()}", lambda queue: False)

    def is_reachable(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(self.redis.ping())
        except RedisError:
            return False

    def _enqueue(
        self,
        name: str,
        function: str,
        arguments: list[Any],
        job_id: str,
        has_enough: Callable[[Queue], bool] | None = None,
    ) -> bool:
        """Add a job to a queue unless the queue has enough. Returns False if Redis cannot be reached.

        Args:
            has_enough: default: whether the job waits already.
        """
        queue = Queue(name, connection=self.redis, serializer=JSONSerializer)
        try:
            if not (self._is_waiting(queue, job_id) if has_enough is None else has_enough(queue)):
                queue.enqueue_call(
                    function,
                    args=tuple(arguments),
                    job_id=job_id,
                    timeout=-1,
                    result_ttl=0,
                    failure_ttl=FAILURE_TTL_S,
                )
        except RedisError as error:
            level = logging.DEBUG if name == LOOKAHEAD else logging.WARNING
            log.log(level, "job %s waits for the next sweep, Redis cannot be reached: %s", job_id, error)
            return False
        return True

    def _is_waiting(self, queue: Queue, job_id: str) -> bool:
        """Whether a job waits. Redis looks for it, since thousands may wait."""
        return self.redis.lpos(queue.key, job_id) is not None


def _has_collect(queue: Queue) -> bool:
    """Whether a job that applies events waits. Only few jobs of other kinds wait on its queue."""
    return any(job_id.startswith("collect-") for job_id in queue.job_ids)
