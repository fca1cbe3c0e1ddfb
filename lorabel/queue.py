"""The RQ queues by name, and how a job is put on them. Jobs are named by dotted path, arguments are JSON.

A lost job is no loss: the database knows what is to be done, and the sweep (`workers/sweep.py`) asks again.
"""

import logging
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
        """False if Redis cannot be reached: the next sweep does the work."""
        return self._enqueue(LIGHT, COLLECT_JOB, [], f"collect-{event_id}")

    def train(self, run_id: int, attempt: int = 1) -> bool:
        """A job that waits already counts as put there. Two jobs of one run do no harm: one claims it."""
        return self._enqueue(TRAIN, FINETUNE_JOB, [run_id], f"train-{run_id}-{attempt}")

    def is_reachable(self) -> bool:
        try:
            return bool(self.redis.ping())
        except RedisError:
            return False

    def _enqueue(self, name: str, function: str, args: list[Any], job_id: str) -> bool:
        queue = Queue(name, connection=self.redis, serializer=JSONSerializer)
        try:
            # An event has one job only; the other list is short.
            if name == LIGHT or job_id not in queue.job_ids:
                queue.enqueue_call(
                    function, args=tuple(args), job_id=job_id, timeout=-1, result_ttl=0, failure_ttl=FAILURE_TTL_S
                )
        except RedisError as error:
            log.warning("job %s waits for the next sweep, Redis cannot be reached: %s", job_id, error)
            return False
        return True
