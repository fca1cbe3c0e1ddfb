"""The RQ queues by name, and how a job is put on them. Jobs are named by dotted path, arguments are JSON.

A lost job is no loss: the database knows what is to be done, and the sweep (`workers/sweep.py`) asks again.
"""

import logging
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer

from lorabel.settings import Settings

log = logging.getLogger(__name__)

LIGHT = "light"
TRAIN = "train"
COLLECT_JOB = "workers.collect.collect"
FINETUNE_JOB = "workers.finetune.run"
FAILURE_TTL_S = 24 * 3600


class Jobs:
    """Puts jobs on the queues. Never raises because of Redis, and never waits for it long."""

    def __init__(self, settings: Settings) -> None:
        self.redis = Redis.from_url(
            settings.redis,
            socket_connect_timeout=0.2,
            socket_timeout=0.3,
            retry=Retry(NoBackoff(), 0),
        )

    def collect(self, event_id: int) -> bool:
        """Call it after the event is committed: a job that waits on the queue will find it, and is enough.

        Returns:
            False if Redis cannot be reached: the next sweep does the work.
        """
        return self._enqueue(LIGHT, COLLECT_JOB, [], f"collect-{event_id}", lambda queue: queue.count > 0)

    def train(self, run_id: int, attempt: int = 1) -> bool:
        """A job that waits already is enough. Two jobs of one run do no harm: one claims it."""
        job_id = f"train-{run_id}-{attempt}"
        return self._enqueue(TRAIN, FINETUNE_JOB, [run_id], job_id, lambda queue: job_id in queue.job_ids)

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
            log.warning("job %s waits for the next sweep, Redis cannot be reached: %s", job_id, error)
            return False
        return True
