"""An RQ worker that runs its jobs in its own process: `python -m workers light|train|bulk`.

`light` applies events, fits heads and sweeps. `train` trains; a base model is loaded when a run
first needs it, and kept. `bulk`
predicts whole projects, and tasks ahead of the annotator. Several workers of each kind can share a database and a
Redis.
"""

import logging
import os
import sys
import threading
import time
from typing import Any

from redis import Redis
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty

from lorabel import logs
from lorabel.database.jobs import BULK, JOB_FUNCTIONS, LIGHT, LOOKAHEAD, TRAIN, Jobs
from lorabel.redaction import Redactor
from lorabel.settings import Settings
from lorabel.startup import garbage_collector_paused
from workers.services import Services

log = logging.getLogger(__name__)

QUEUES = (LIGHT, TRAIN, BULK)
# If model server and training share the CPU, an annotator's prediction must go first.
TRAINING_NICENESS = 10
# A waiting worker renews its entry in Redis 15 s before it expires; container health checks look at the entry.
WORKER_TTL_S = 45
AHEAD_PAUSE_S = 5.0
REDIS_PAUSE_S = 1.0


class RefusedJobError(Exception):
    """A job names a function that is no job of ours."""


class ListedJob(Job):
    """A job that calls a function of JOB_FUNCTIONS and nothing else.

    RQ would import and call whatever function a job in Redis names, also as a callback, and send requests to any
    address. So somebody who can write to Redis could run `os.system` here.
    """

    @property
    def func(self) -> Any:
        """The job's function. Raises RefusedJobError, with which the job fails."""
        if self.func_name not in JOB_FUNCTIONS or self.instance is not None:
            raise RefusedJobError(f"job {self.id} names {self.func_name!r}, which is not in JOB_FUNCTIONS")
        if self.func_name.rpartition(".")[0] in sys.modules:
            return super().func
        with garbage_collector_paused():  # a training run imports torch, transformers and PEFT
            return super().func

    @property
    def success_callback(self) -> None:
        """No job has a callback."""

    @property
    def failure_callback(self) -> None:
        """No job has a callback."""

    @property
    def stopped_callback(self) -> None:
        """No job has a callback."""

    def send_webhooks(self, status: Any, *, exc_string: str | None = None) -> None:
        """Do nothing: no job has a webhook of RQ."""


class Worker(SimpleWorker):
    """RQ sets no time limit for the jobs: instead the sweep watches the leases of runs."""

    death_penalty_class = TimerDeathPenalty
    job_class = ListedJob
    redactor: Redactor | None = None

    def handle_job_failure(
        self, job: Job, queue: Queue, started_job_registry: Any = None, exc_string: str = "", execution: Any = None
    ) -> None:
        """Also masks the traceback, which RQ keeps in Redis: an error's message may quote a task."""
        if self.redactor is not None:
            exc_string = self.redactor.masked_message(exc_string)
        super().handle_job_failure(job, queue, started_job_registry, exc_string, execution)

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Also restores the worker's entry if Redis lost its data: RQ itself writes it only once."""
        if pipeline is None and not self.connection.hexists(self.key, "birth"):
            self.connection.delete(self.key)
            self.register_birth()  # type: ignore[no-untyped-call]
        super().heartbeat(timeout, pipeline)


class ThreadWorker(Worker):
    """A worker for a thread. Only a process's main thread can handle signals, so this one does not."""

    def _install_signal_handlers(self) -> None:
        pass


def main(queue_name: str) -> None:
    """Run the worker of a queue until a signal, with what else belongs to it."""
    settings = Settings()
    logs.configure(settings)
    services = Services.current()
    services.store.migrate()
    stop = threading.Event()
    if queue_name == LIGHT:
        # Only this worker needs SciPy from its start.
        from workers.head_fitting import fit_forever
        from workers.requeue_sweep import sweep_forever

        threading.Thread(target=sweep_forever, args=(services, stop), name="sweep", daemon=True).start()
        # A thread of its own, because events must be applied while the heads of a large project are fitted.
        threading.Thread(target=fit_forever, args=(services, stop), name="heads", daemon=True).start()
    elif queue_name == TRAIN:
        os.nice(TRAINING_NICENESS)
    else:
        # A thread of its own, because a bulk run takes hours and the look-ahead must finish within a second.
        threading.Thread(target=_work_ahead, args=(settings, stop), name=LOOKAHEAD, daemon=True).start()
    log.info("worker of queue %s, process %d", queue_name, os.getpid())
    try:
        _wait_for_redis(services.jobs)
        work(queue_name, settings)
    finally:
        stop.set()
        services.close()


def _wait_for_redis(jobs: Jobs) -> None:
    """Wait until Redis answers. RQ would raise instead, and the end of the process would end the sweep, too."""
    is_logged = False
    while not jobs.is_reachable():
        if not is_logged:
            log.warning("Redis does not answer; this worker takes no jobs until it does")
            is_logged = True
        time.sleep(REDIS_PAUSE_S)


def work(queue_name: str, settings: Settings, worker_type: type[Worker] = Worker) -> None:
    """Do the queue's jobs until a signal."""
    redis = Redis.from_url(settings.redis)
    worker = make_worker(queue_name, redis, worker_type)
    worker.redactor = Services.current().redactor
    worker.work(logging_level="WARNING")


def make_worker(queue_name: str, redis: Redis, worker_type: type[Worker]) -> Worker:
    """A worker of a queue, and of no other job than those of JOB_FUNCTIONS."""
    queue = Queue(queue_name, connection=redis, serializer=JSONSerializer, job_class=ListedJob)
    return worker_type([queue], connection=redis, serializer=JSONSerializer, worker_ttl=WORKER_TTL_S)


def _work_ahead(settings: Settings, stop: threading.Event) -> None:
    """Do look-ahead jobs, and start again after an error.

    A process that loses Redis ends and its supervisor restarts it; this thread has to restart by itself.
    """
    while not stop.is_set():
        try:
            work(LOOKAHEAD, settings, ThreadWorker)
        except Exception:
            log.exception("nothing is predicted ahead for %g s", AHEAD_PAUSE_S)
        stop.wait(AHEAD_PAUSE_S)
