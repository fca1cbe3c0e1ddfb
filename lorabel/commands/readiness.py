"""Whether the parts that `lorabel up` starts answer."""

import socket

import httpx
from redis.exceptions import RedisError
from rq import Queue, Worker
from rq.serializers import JSONSerializer

from lorabel.database.jobs import Jobs

HTTP_TIMEOUT_S = 0.9


def answers_http(url: str) -> bool:
    """Whether a GET of the address, which is http, succeeds."""
    try:
        # Else httpx reads all authorities at each call, which takes 20 ms of CPU while the parts start.
        return httpx.get(url, timeout=HTTP_TIMEOUT_S, trust_env=False, verify=False).is_success
    except httpx.HTTPError:
        return False


def is_taking_jobs(jobs: Jobs, queue_name: str, pid: int) -> bool:
    """Whether the worker with this process id on this machine has registered itself in Redis for the queue."""
    queue = Queue(queue_name, connection=jobs.redis, serializer=JSONSerializer)
    try:
        workers = Worker.all(queue=queue, serializer=JSONSerializer)
        return any(worker.pid == pid and worker.hostname == socket.gethostname() for worker in workers)
    except RedisError:
        return False
