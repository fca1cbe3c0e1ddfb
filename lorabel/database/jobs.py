"""The RQ queues by name, and how a job is put on them. Jobs are named by dotted path, arguments are JSON.

A lost job is no loss: the database knows what is to be done, and the sweep (`workers/sweep.py`) asks again.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer

from lorabel.database.tables import BulkRun
from lorabel.settings import Settings

log = logging.getLogger(__name__)

LIGHT = "light"
TRAIN = "train"
BULK = "bulk"
LOOKAHEAD = "lookahead"
COLLECT_JOB = "workers.collect.collect"
FINETUNE_JOB = "workers.finetune.finetune"
PREANNOTATE_JOB = "workers.preannotate.preannotate"
ORDER_JOB = "workers.order.order"
LOOKAHEAD_JOB = "workers.lookahead.look_ahead"
FAILURE_TTL_S = 24 * 3600
COLLECT_LINGER_S = 0.2  # between the job's first look for pending events and its last


class Jobs:
    """Puts jobs on the queues. Never raises because of Redis, and never waits for it long."""

    def __init__(self, settings: Settings) -> None:
        self._is_looking_ahead = settings.ahead_tasks > 0
        self._collected_until = 0.0
        self.redis = Redis.from_url(
            settings.redis,
            socket_connect_timeout=0.2,
            socket_timeout=0.3,
            retry=Retry(NoBackoff(), 0),
        )

    def collect(self, event_id: int) -> bool:
        """Call it after the event is committed: a job that waits on the queue will find it, and is enough.

        Redis is asked once for all events of a short while: the job that waited at its beginning was not begun
        before, and takes its last look COLLECT_LINGER_S after it began.

        Returns:
            False if Redis cannot be reached: the next sweep does the work.
        """
        asked_at = time.monotonic()
        if asked_at < self._collected_until:
            return True
        is_told = self._enqueue(LIGHT, COLLECT_JOB, [], f"collect-{event_id}", lambda queue: queue.count > 0)
        if is_told:
            self._collected_until = asked_at + COLLECT_LINGER_S / 2
        return is_told

    def train(self, run_id: int, attempt: int = 1) -> bool:
        """A job that waits already is enough. Two jobs of one run do no harm: one claims it."""
        job_id = f"train-{run_id}-{attempt}"
        return self._enqueue(TRAIN, FINETUNE_JOB, [run_id], job_id, lambda queue: job_id in queue.job_ids)

    def preannotate(self, run: BulkRun) -> bool:
        """As for training. A run that gave its turn to another gets a job of another name."""
        job_id = f"bulk-{run.id}-{run.attempt}-{run.cursor}"
        function = PREANNOTATE_JOB if run.strategy is None else ORDER_JOB
        return self._enqueue(BULK, function, [run.id], job_id, lambda queue: job_id in queue.job_ids)

    def look_ahead(self, project_id: int, *, after: int = 0, event_id: int | None = None) -> bool:
        """Have the open tasks after one, or those that an event brought, predicted before they are opened.

        One job per project waits at most. A lost one is never asked for again: nobody waits for its work.
        """
        if not self._is_looking_ahead:
            return False
        job_id = f"lookahead-{project_id}" if event_id is None else f"lookahead-{project_id}-{event_id}"
        arguments = [project_id, after, event_id]
        return self._enqueue(LOOKAHEAD, LOOKAHEAD_JOB, arguments, job_id, lambda queue: job_id in queue.job_ids)

    def is_reachable(self) -> bool:
        try:
            return bool(self.redis.ping())
        except RedisError:
            return False

    def _enqueue(
        self, name: str, function: str, args: list[Any], job_id: str, is_enough: Callable[[Queue], bool]
    ) -> bool:
        queue = Queue(name, connection=self.redis, serializer=JSONSerializer)
        try:
            if not is_enough(queue):
                queue.enqueue_call(
                    function, args=tuple(args), job_id=job_id, timeout=-1, result_ttl=0, failure_ttl=FAILURE_TTL_S
                )
        except RedisError as error:
            level = logging.DEBUG if name == LOOKAHEAD else logging.WARNING
            log.log(level, "job %s waits for the next sweep, Redis cannot be reached: %s", job_id, error)
            return False
        return True
