"""Asks the model server for features of several projects at once, in threads.

So no project waits because the media of another are slow. A request computes some of what a project lacks; then
its head is fitted on what is there, and the next request follows. Of several light workers, one at a time asks
about a project.
"""

import logging
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from queue import SimpleQueue
from typing import NamedTuple

from lorabel.database.tables import Project
from lorabel.errors import ModelServerError
from workers import feature_collection
from workers.annotated_tasks import AnnotatedTask
from workers.services import Services

log = logging.getLogger(__name__)

# Projects that are asked about at once. One of these places is kept for projects that lack few features and whose
# last request was answered in time.
MOST_AT_ONCE = 4
# Of `Store.claim`: the model server is being asked about the project with this id.
ASKING = 0x10AF18


@dataclass(frozen=True)
class Missing:
    """The tasks of a control tag that lack features, by task id, and the adapter that computes these."""

    from_name: str
    adapter: str | None
    tasks: Mapping[int, AnnotatedTask]


class _Ended(NamedTuple):
    """A request that has ended: about how many tasks it asked, and was answered."""

    project_id: int
    asked: int
    answered: int
    has_failed: bool


class FeatureRequests:
    """The requests of one `HeadFitter`, at most one for each project. Only its thread may use this.

    `services.heads_wanted` is set when a request was answered.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._threads: dict[int, threading.Thread] = {}
        self._long: set[int] = set()
        # Projects about which the last request was not answered in full.
        self._slow: set[int] = set()
        self._ended: SimpleQueue[_Ended] = SimpleQueue()

    def has_room(self, project_id: int, missing: list[Missing]) -> bool:
        """Whether this project can be asked about now; False if too many others are."""
        if len(self._threads) >= MOST_AT_ONCE:
            return False
        return not self._is_long(project_id, missing) or len(self._long) < MOST_AT_ONCE - 1

    def start(self, project: Project, missing: list[Missing], claim: ExitStack) -> None:
        """Ask about some of the tasks.

        Args:
            claim: of ASKING, which is closed when the request has ended and its answer is in the database.
        """
        name = f"features of project {project.id}"
        thread = threading.Thread(target=self._ask, args=(project, missing, claim), name=name, daemon=True)
        try:
            thread.start()
        except BaseException:
            claim.close()
            raise
        # Only now: a thread that could not be started would never end.
        self._threads[project.id] = thread
        if self._is_long(project.id, missing):
            self._long.add(project.id)

    def _is_long(self, project_id: int, missing: list[Missing]) -> bool:
        return project_id in self._slow or sum(len(of_tag.tasks) for of_tag in missing) > feature_collection.FEW

    def take_answered(self) -> dict[int, int]:
        """Return, by project, about how many tasks requests were answered that have ended since the last call."""
        answered: dict[int, int] = {}
        while not self._ended.empty():
            ended = self._ended.get()
            del self._threads[ended.project_id]
            self._long.discard(ended.project_id)
            if ended.answered < ended.asked:
                self._slow.add(ended.project_id)
            else:
                self._slow.discard(ended.project_id)
            if not ended.has_failed:
                answered[ended.project_id] = ended.answered
        return answered

    def is_running(self, project_id: int | None = None) -> bool:
        """Whether a request has not ended, or was not taken yet: about this project, or about any."""
        return bool(self._threads) if project_id is None else project_id in self._threads

    def join(self) -> None:
        """Wait until every request has ended."""
        for thread in self._threads.values():
            thread.join()

    def _ask(self, project: Project, missing: list[Missing], claim: ExitStack) -> None:
        asked = sum(min(len(of_tag.tasks), feature_collection.MOST_ASKED) for of_tag in missing)
        answered, has_failed = 0, True
        try:
            with claim:
                for of_tag in missing:
                    answered += feature_collection.ask_for_features(
                        self._services, project, of_tag.from_name, of_tag.adapter, of_tag.tasks
                    )
            has_failed = False
        except ModelServerError as error:
            log.warning("project %d: its heads wait for the model server: %s", project.id, error)
        except Exception:
            log.exception("project %d: the features of its tasks were not computed", project.id)
        finally:
            self._ended.put(_Ended(project.id, asked, answered, has_failed))
            # After a failure the next sweep is soon enough.
            if not has_failed:
                self._services.heads_wanted.set()
