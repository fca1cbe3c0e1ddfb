"""Container health check: `python -m workers.health light|train|bulk` fails if the worker is not alive.

A process that exists may still hang, so this looks for signs of life: an idle worker renews its entry in Redis;
a worker that trains or predicts in bulk renews the lease of its run in the database. The light worker must also
keep up: if an event has waited for minutes, neither jobs nor sweeps are done.
"""

import os
import socket
import sys
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, Worker
from rq.serializers import JSONSerializer
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from lorabel.database.jobs import BULK, LIGHT, TRAIN
from lorabel.database.store import Store
from lorabel.database.tables import BulkRun, Event, EventState, RunState, TrainingRun, now
from lorabel.settings import Settings

RUNS: Mapping[str, type[TrainingRun] | type[BulkRun]] = MappingProxyType({TRAIN: TrainingRun, BULK: BulkRun})
LONGEST_WAIT = timedelta(minutes=3)
REDIS_TIMEOUT_S = 5.0


def find_fault(queue_name: str, settings: Settings) -> str | None:
    """What is wrong with this machine's worker of the queue, or None. Changes nothing."""
    store = Store.open(settings)
    try:
        if queue_name == LIGHT and (event_id := _oldest_overdue_event(store)) is not None:
            return f"event {event_id} has waited for more than {LONGEST_WAIT.seconds} s"
        if queue_name in RUNS and _is_run_alive(store, RUNS[queue_name], settings):
            return None
        if _is_waiting_for_jobs(queue_name, settings):
            return None
    except (RedisError, SQLAlchemyError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        store.close()
    return f"no worker of queue {queue_name} on {socket.gethostname()} shows that it lives"


def _oldest_overdue_event(store: Store) -> int | None:
    waiting = (Event.state == EventState.PENDING, Event.received_at < now() - LONGEST_WAIT)
    with store.read() as session:
        return session.scalar(select(func.min(Event.id)).where(*waiting))


def _is_waiting_for_jobs(queue_name: str, settings: Settings) -> bool:
    """Whether RQ has an entry of a living worker of this machine.

    The entry expires a minute after a worker stopped waiting for jobs, and 7 minutes into a job.
    """
    redis = Redis.from_url(settings.redis, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S)
    try:
        queue = Queue(queue_name, connection=redis, serializer=JSONSerializer)
        workers = Worker.all(queue=queue, serializer=JSONSerializer)
        return any(worker.hostname == socket.gethostname() and _is_running(worker.pid) for worker in workers)
    finally:
        redis.close()


def _is_running(pid: int | None) -> bool:
    try:
        os.kill(pid or 0, 0)
    except ProcessLookupError:
        return False
    return bool(pid)


def _is_run_alive(store: Store, table: type[TrainingRun] | type[BulkRun], settings: Settings) -> bool:
    """Whether a run's lease was renewed lately, by any worker: a run's row does not name its worker."""
    since = now() - timedelta(seconds=settings.run_lease_seconds)
    with store.read() as session:
        alive = select(func.count()).where(table.state == RunState.RUNNING, table.heartbeat_at >= since)
        return bool(session.scalar(alive))


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in (LIGHT, *RUNS):
        sys.exit(f"usage: python -m workers.health {'|'.join((LIGHT, *RUNS))}")
    sys.exit(find_fault(sys.argv[1], Settings()))
