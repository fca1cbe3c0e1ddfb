"""Takes a project's jobs out of Redis, and what failed jobs have left there: tracebacks may quote texts."""

import re
import time

from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

from lorabel.database.jobs import BULK, LIGHT, LOOKAHEAD, TRAIN, Jobs

REWRITE_S = 10.0
POLL_S = 0.05


def remove_jobs(jobs: Jobs, project_id: int, *, is_all: bool) -> int:
    """Delete the project's look-aheads that wait, which tasks they have predicted, and all failed jobs.

    Redis is never the only place of any work. Jobs of runs name rows that are gone, and end at once.

    Args:
        is_all: also delete the jobs that wait to forget something of the project.

    Returns:
        How many jobs were deleted, and lists of predicted tasks.

    Raises:
        RedisError: Redis cannot be reached.
    """
    pattern = rf"lookahead-{project_id}(-[0-9]+)?"
    is_removed = re.compile(rf"{pattern}|forget-{project_id}-.*" if is_all else pattern)
    deleted = jobs.predicted.forget(project_id)
    for name in (LIGHT, TRAIN, BULK, LOOKAHEAD):
        queue = Queue(name, connection=jobs.redis, serializer=JSONSerializer)
        waiting = [job_id for job_id in queue.get_job_ids() if is_removed.fullmatch(job_id)]
        for job_id in [*waiting, *queue.failed_job_registry.get_job_ids(cleanup=False)]:
            deleted += _delete(job_id, queue)
    return deleted


def rewrite_files(jobs: Jobs) -> bool:
    """Have Redis write its files anew, without what was deleted. Returns False if that takes too long.

    Raises:
        RedisError: Redis cannot be reached, or refuses.
    """
    for begin, is_on, has_failed in (
        (jobs.redis.bgrewriteaof, "aof_rewrite_in_progress", "aof_last_bgrewrite_status"),
        (jobs.redis.bgsave, "rdb_bgsave_in_progress", "rdb_last_bgsave_status"),
    ):
        begin()
        deadline = time.monotonic() + REWRITE_S
        while (state := jobs.redis.info("persistence"))[is_on] or state["aof_rewrite_scheduled"]:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        if state[has_failed] != "ok":
            raise RedisError(f"{begin.__name__} has failed; see Redis's log")
    return True


def _delete(job_id: str, queue: Queue) -> bool:
    try:
        Job.fetch(job_id, connection=queue.connection, serializer=JSONSerializer).delete()
    except NoSuchJobError:
        queue.remove(job_id)
        queue.failed_job_registry.remove(job_id)
        return False
    return True
