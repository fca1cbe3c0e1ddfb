"""A project's tasks gone through by id, a page at a time, so that each has its embedding.

What is not embedded yet, was changed since, or lies in another base model's space is embedded; what is gone
leaves. Where it was stopped it goes on the next time.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic

from lorabel.contracts import EmbedInput
from lorabel.database import task_embeddings
from lorabel.database.store import Store
from lorabel.database.task_embeddings import TaskVector
from lorabel.errors import UnreadableError
from lorabel.inference.requests import PredictionCaller
from lorabel.label_studio.client import AnnotatedTask, LabelStudio
from lorabel.problems.binding import BoundConfig
from lorabel.search import embeddings
from lorabel.search.embeddings import Resolve

log = logging.getLogger(__name__)


@dataclass
class Indexing:
    """One pass, until the deadline of `caller`.

    Args:
        space: what the base model's vectors are in now; None if it is not known yet.
        embedded: how many tasks got a vector.
        unread: tasks that cannot be embedded, with the reason.
    """

    store: Store
    client: LabelStudio
    caller: PredictionCaller
    bound: BoundConfig
    resolve: Resolve
    page_size: int
    space: str | None = None
    embedded: int = 0
    unread: dict[int, str] = field(default_factory=dict)

    def run(self, cursor: int) -> bool:
        """From the tasks after `cursor` on. Returns whether it got to the last one.

        Raises:
            LabelStudioError, ModelServerError: what was embedded so far is kept.
        """
        while monotonic() < self.caller.deadline:
            tasks = self.client.tasks_after(self.caller.project_id, cursor, page_size=self.page_size).tasks
            last_id = tasks[-1].task_id if tasks else None
            self._forget_gone(tasks, cursor, last_id)
            if last_id is None:
                return True
            if not self._embed(tasks, cursor, last_id):
                return False
            cursor = last_id
            task_embeddings.set_cursor(self.store, self.caller.project_id, cursor, self.space)
        return False

    def _forget_gone(self, tasks: list[AnnotatedTask], cursor: int, last_id: int | None) -> None:
        with self.store.read() as session:
            before = task_embeddings.known(session, self.caller.project_id, cursor, last_id)
        gone = before.keys() - {task.task_id for task in tasks}
        if gone:
            with self.store.write() as session:
                task_embeddings.forget(self.store, session, self.caller.project_id, gone)

    def _embed(self, tasks: list[AnnotatedTask], cursor: int, last_id: int) -> bool:
        """Returns whether the time sufficed."""
        asked: dict[int, EmbedInput] = {}
        for task in tasks:
            try:
                asked[task.task_id] = embeddings.question(self.bound, task.data)
            except UnreadableError as error:
                self.unread[task.task_id] = str(error)
        for task_id, one in asked.items():
            # A known one is asked all the same: the base model may be another one than when it was embedded.
            if self.space is None and not self._keep({task_id: one}):
                return False
        with self.store.read() as session:
            known = task_embeddings.known(session, self.caller.project_id, cursor, last_id)
        return self._keep(
            {
                task_id: one
                for task_id, one in asked.items()
                if task_id not in self.unread and known.get(task_id) != self._as_known(one)
            }
        )

    def _as_known(self, asked: EmbedInput) -> task_embeddings.Known | None:
        digest = task_embeddings.contents_digest(asked)
        return None if self.space is None else task_embeddings.Known(digest, self.space)

    def _keep(self, asked: Mapping[int, EmbedInput]) -> bool:
        is_late = False
        for task_id, one in embeddings.keep(self.store, self.caller, asked, self.resolve).items():
            if isinstance(one, TaskVector):
                self.space = one.space
                self.embedded += 1
            elif one.is_late:
                is_late = True
            else:
                self.unread[task_id] = one.reason
        return not is_late
