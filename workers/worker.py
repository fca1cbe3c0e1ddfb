"""`python -m workers.worker light|train|bulk`: an RQ worker that runs its jobs in its own process.

`light` applies events and sweeps; `train` keeps the base model warm from one run to the next; `bulk` predicts
whole projects, and tasks ahead of the annotator. Start more of any against the same database and Redis to go
faster.
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
from lorabel.database.jobs import BULK, LIGHT, LOOKAHEAD, TRAIN
from lorabel.settings import Settings
from workers import services
from workers.sweep import sweep_forever

log = logging.getLogger(__name__)

QUEUES = (LIGHT, TRAIN, BULK)
# Where model server and training share the CPU, an annotator's prediction goes first.
TRAINING_NICENESS = 10
# A waiting worker renews its entry in Redis 15 s before that: container health checks look at it.
HEARTBEAT_S = 45
AHEAD_PAUSE_S = 5.0


class Worker(SimpleWorker):
    """Jobs have no time limit of RQ's: a run's lease is watched by the sweep."""

    death_penalty_class = TimerDeathPenalty

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Also puts the worker's entry back where Redis lost its data: RQ writes it once."""
        if pipeline is None and not self.connection.hexists(self.key, "birth"):
            self.connection.delete(self.key)
            self.register_birth()  # type: ignore[no-untyped-call]
        super().heartbeat(timeout, pipeline)


class ThreadWorker(Worker):
    """Beside another worker of the same process, whose main thread alone may handle signals."""

    def _install_signal_handlers(self) -> None:
        pass


def main(queue_name: str) -> None:
    settings = Settings()
    logs.configure(settings)
    here = services.current()
    here.store.migrate()
    stop = threading.Event()
    if queue_name == LIGHT:
        threading.Thread(target=sweep_forever, args=(here, stop), name="sweep", daemon=True).start()
    elif queue_name == TRAIN:
        os.nice(TRAINING_NICENESS)
        here.warm_up()
    else:
        # Neither waits for the other: a bulk run takes hours, and what is ahead of an annotator a second.
        threading.Thread(target=_work_ahead, args=(settings, stop), name=LOOKAHEAD, daemon=True).start()
    log.info("worker of queue %s, process %d", queue_name, os.getpid())
    try:
        work(queue_name, settings)
    finally:
        stop.set()
        here.close()


def work(queue_name: str, settings: Settings, kind: type[Worker] = Worker) -> None:
    """Do the queue's jobs until a signal."""
    redis = Redis.from_url(settings.redis)
    queue = Queue(queue_name, connection=redis, serializer=JSONSerializer)
    kind([queue], connection=redis, serializer=JSONSerializer, worker_ttl=HEARTBEAT_S).work(
        logging_level="WARNING"
    )


def _work_ahead(settings: Settings, stop: threading.Event) -> None:
    """A process that loses Redis ends and is started again; this thread has to do so by itself."""
    while not stop.is_set():
        try:
            work(LOOKAHEAD, settings, ThreadWorker)
        except Exception:
            log.exception("nothing is predicted ahead for %g s", AHEAD_PAUSE_S)
        stop.wait(AHEAD_PAUSE_S)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in QUEUES:
        sys.exit(f"usage: python -m workers.worker {'|'.join(QUEUES)}")
    main(sys.argv[1])
