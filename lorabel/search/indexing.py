"""Embeds the tasks of a project, page by page in the order of their ids.

A task is embedded if it has no vector, was changed since, or has a vector of another base model. Vectors of
deleted tasks are removed. An interrupted pass goes on where it stopped.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic

from lorabel.contracts import EmbedInput, Modality
from lorabel.database import task_embeddings
from lorabel.database.project_keys import LabelStudioId
from lorabel.database.store import Store
from lorabel.database.task_embeddings import TaskVector
from lorabel.errors import UnreadableError
from lorabel.inference.requests import PredictionCaller
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.records import AnnotatedTask, TaskPage
from lorabel.problems.binding import BoundConfig
from lorabel.search import embeddings
from lorabel.search.embeddings import Resolve

log = logging.getLogger(__name__)


@dataclass
class Indexing:
    """One pass over a project's tasks, until the deadline of `caller`.

    Attributes:
        space: the space that this pass is for: the query's, or else that of the first vector. None until then.
        spaces: the space of the vectors that the base models compute now, by the modalities of the question. Tasks
            of a project may be in several spaces, see `embeddings.embed_tasks`.
        embedded: number of tasks that got a vector.
        unreadable: by task id why the task cannot be embedded.
    """

    store: Store
    client: LabelStudio
    label_studio_id: LabelStudioId
    caller: PredictionCaller
    bound: BoundConfig
    resolve: Resolve
    page_size: int
    space: str | None = None
    spaces: dict[frozenset[Modality], str] = field(default_factory=dict)
    embedded: int = 0
    unreadable: dict[int, str] = field(default_factory=dict)

    def run(self, cursor: int) -> bool:
        """Embed the tasks whose id is greater than `cursor`.

        Returns:
            Whether the last task was reached.

        Raises:
            LabelStudioError, ModelServerError: the vectors of the pages before are stored.
        """
        while monotonic() < self.caller.deadline:
            tasks = self.read_page(cursor).tasks
            if not self.keep_page(tasks, cursor):
                return False
            if not tasks:
                return True
            cursor = tasks[-1].task_id
        return False

    def read_page(self, cursor: int) -> TaskPage:
        """Read the next tasks after `cursor` from Label Studio. Raises LabelStudioError."""
        return self.client.tasks_after(self.label_studio_id, cursor, page_size=self.page_size)

    def keep_page(self, tasks: list[AnnotatedTask], cursor: int) -> bool:
        """Embed the tasks of a page, and remove the vectors of those that should be on it but are not.

        Args:
            tasks: from `read_page`; none after the last task.
            cursor: the page's.

        Returns:
            Whether there was enough time. If not, vectors are stored of some of them; the page can be repeated.

        Raises:
            ModelServerError: nothing was computed.
        """
        last_id = tasks[-1].task_id if tasks else None
        self._forget_deleted(tasks, cursor, last_id)
        if last_id is None:
            return True
        if not self._embed(tasks, cursor, last_id):
            return False
        task_embeddings.set_cursor(self.store, self.caller.project_id, last_id, self.space)
        return True

    def _forget_deleted(self, tasks: list[AnnotatedTask], cursor: int, last_id: int | None) -> None:
        """Remove the vectors of tasks that should be on the page but are not."""
        with self.store.read() as session:
            embedded = task_embeddings.read_keys(session, self.caller.project_id, cursor, last_id)
        deleted_ids = embedded.keys() - {task.task_id for task in tasks}
        if deleted_ids:
            with self.store.write() as session:
                task_embeddings.delete_tasks(self.store, session, self.caller.project_id, deleted_ids)

    def _embed(self, tasks: list[AnnotatedTask], cursor: int, last_id: int) -> bool:
        """Embed the tasks of a page. Returns whether there was enough time."""
        questions: dict[int, EmbedInput] = {}
        for task in tasks:
            try:
                questions[task.task_id] = embeddings.question(self.bound, task.data)
            except UnreadableError as error:
                self.unreadable[task.task_id] = str(error)
        for task_id, question in questions.items():
            # Until one vector tells the space, embed tasks that have one too: the base model may have changed.
            if question.modalities not in self.spaces and not self._keep({task_id: question}):
                return False
        with self.store.read() as session:
            embedded = task_embeddings.read_keys(session, self.caller.project_id, cursor, last_id)
        return self._keep(
            {
                task_id: question
                for task_id, question in questions.items()
                if task_id not in self.unreadable and embedded.get(task_id) != self._key_of(question)
            }
        )

    def _key_of(self, question: EmbedInput) -> task_embeddings.EmbeddingKey | None:
        """What the database holds if the question was answered by the present base model."""
        space = self.spaces.get(question.modalities)
        digest = task_embeddings.contents_digest(question)
        return None if space is None else task_embeddings.EmbeddingKey(digest, space)

    def _keep(self, questions: Mapping[int, EmbedInput]) -> bool:
        """Have vectors computed and stored. Returns whether there was enough time."""
        is_late = False
        for task_id, answer in embeddings.keep(self.store, self.caller, questions, self.resolve).items():
            if isinstance(answer, TaskVector):
                self.spaces[questions[task_id].modalities] = answer.space
                self.space = self.space or answer.space
                self.embedded += 1
            elif answer.is_late:
                is_late = True
            else:
                self.unreadable[task_id] = answer.reason
        return not is_late
