"""`python -m workers.worker light|train`: an RQ worker that runs its jobs in its own process.

`light` applies events and sweeps; `train` keeps the base model warm from one run to the next. Start more of
either against the same database and Redis to go faster.
"""

import logging
import os
import sys
import threading
from typing import Any

from redis import Redis
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty

from lorabel import logs
from lorabel.queue import LIGHT, TRAIN
from lorabel.settings import Settings
from workers import services
from workers.sweep import sweep_forever

log = logging.getLogger(__name__)

# Where model server and training share the CPU, an annotator's prediction goes first.
TRAINING_NICENESS = 10
# A waiting worker renews its entry in Redis 15 s before that: container health checks look at it.
HEARTBEAT_S = 45


class Worker(SimpleWorker):
    """Jobs have no time limit of RQ's: a run's lease is watched by the sweep."""

    death_penalty_class = TimerDeathPenalty

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Also puts the worker's entry back where Redis lost its data: RQ writes it once."""
        if pipeline is None and not self.connection.hexists(self.key, "birth"):
            self.connection.delete(self.key)
            self.register_birth()  # type: ignore[no-untyped-call]
        super().heartbeat(timeout, pipeline)


def main(queue_name: str) -> None:
    settings = Settings()
    logs.configure(settings)
    here = services.current()
    here.store.migrate()
    stop = threading.Event()
    if queue_name == LIGHT:
        threading.Thread(target=sweep_forever, args=(here, stop), name="sweep", daemon=True).start()
    else:
        os.nice(TRAINING_NICENESS)
        here.warm_up()
    redis = Redis.from_url(settings.redis)
    queue = Queue(queue_name, connection=redis, serializer=JSONSerializer)
    worker = Worker([queue], connection=redis, serializer=JSONSerializer, worker_ttl=HEARTBEAT_S)
    log.info("worker of queue %s, process %d", queue_name, os.getpid())
    try:
        worker.work(logging_level="WARNING")
    finally:
        stop.set()
        here.close()


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in (LIGHT, TRAIN):
        sys.exit(f"usage: python -m workers.worker {LIGHT}|{TRAIN}")
    main(sys.argv[1])
