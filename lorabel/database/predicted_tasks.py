"""The tasks that the look-ahead has predicted a short while ago, kept in Redis: all workers and backends see them.

The model server remembers what it has computed of them. Nothing is lost with this memory: if Redis does not
answer, nothing is known, and tasks are predicted again.

A sorted set for each project, and for each state of it that decides what the model server computes:

lorabel:predicted:12:5f1c... -> {"4711": 4711.0, "4712": 4712.0, "9001": -1.0}
"""

import json
import logging
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar, cast

from redis import Redis
from redis.exceptions import RedisError

from lorabel.database import instructions
from lorabel.database.tables import Project
from lorabel.media.fetching import digest

log = logging.getLogger(__name__)

# From the last time when tasks of a project were predicted.
KEPT_S = 300
# Of a project, those with the highest ids: 0.1 MB of Redis's memory at most.
MOST_KEPT = 1024
PREFIX = "lorabel:predicted"
KEYS_PER_SCAN = 1000
# Below all ids.
NEW = -1

A = TypeVar("A")


class PredictedTasks:
    """Thread-safe.

    Args:
        redis: whose time limits are short, since requests wait for it.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def count_after(self, project: Project, after: int) -> int:
        """How many tasks with ids above `after` are predicted already, new ones left out."""
        return _unless_down(lambda: self._redis.zcount(_key(project), f"({after}", "+inf"), 0)

    def known(self, project: Project, task_ids: Collection[int]) -> frozenset[int]:
        """Those of the tasks that are predicted already."""
        return _unless_down(lambda: self._known(_key(project), list(task_ids)), frozenset())

    def note(self, project: Project, task_ids: Iterable[int], *, are_next: bool) -> None:
        """Remember that tasks are predicted, for KEPT_S and as long as more of the project's tasks are.

        Args:
            are_next: whether they come after a task that somebody has opened. New tasks do not, and
                `count_after` leaves them out: they have the highest ids, and many may be open before them.
        """
        scores = {str(task_id): task_id if are_next else NEW for task_id in task_ids}
        _unless_down(lambda: self._note(_key(project), scores), None)

    def forget(self, project_id: int) -> int:
        """Delete what is known of a project. Returns of how many states of it something was known.

        Raises:
            RedisError: Redis cannot be reached.
        """
        keys = list(self._redis.scan_iter(f"{PREFIX}:{project_id}:*", count=KEYS_PER_SCAN))
        return self._redis.delete(*keys) if keys else 0

    def _known(self, key: str, task_ids: list[int]) -> frozenset[int]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for task_id in task_ids:
                pipeline.zscore(key, str(task_id))
            scores = pipeline.execute()
        return frozenset(id_ for id_, score in zip(task_ids, scores, strict=True) if score is not None)

    def _note(self, key: str, scores: dict[str, int]) -> None:
        if not scores:
            return
        with self._redis.pipeline() as pipeline:
            pipeline.zadd(key, cast(Any, scores), gt=True)
            pipeline.zremrangebyrank(key, 0, -MOST_KEPT - 1)
            pipeline.expire(key, KEPT_S)
            pipeline.execute()


def _key(project: Project) -> str:
    """Under another live version, label config or other parameters the model server computes something else.

    Heads and rules are not part of it: what the model server remembers are features, which they do not change.
    """
    state = [project.live_version, project.label_config, instructions.parameters(project)]
    return f"{PREFIX}:{project.id}:{digest(json.dumps(state, sort_keys=True).encode())}"


def _unless_down(ask: Callable[[], A], otherwise: A) -> A:
    try:
        return ask()
    except RedisError as error:
        log.debug("what was predicted ahead is not known: %s", error)
        return otherwise
