"""Finds the tasks of a project that are most similar to a text or to another task.

If the project's base model puts texts and pictures into the same space, a text also finds pictures, and a picture
also finds texts.
"""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import monotonic

from sqlalchemy.orm import Session

from lorabel.contracts import Modality
from lorabel.database import projects, task_embeddings
from lorabel.database.store import Store
from lorabel.database.tables import Project
from lorabel.database.task_embeddings import TaskVector
from lorabel.errors import ConflictError, LabelStudioError, ModelServerError, NotFoundError, UnreadableError
from lorabel.inference.messages import Priority
from lorabel.inference.model_client import ModelClient
from lorabel.inference.requests import PredictionCaller, Unreadable
from lorabel.label_studio.access import api_access, label_studio_access, require_api_access, task_link
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.media_authorizations import Authorizations
from lorabel.label_studio.project_identity import project_client
from lorabel.problems.binding import BoundConfig, bind
from lorabel.search import embeddings
from lorabel.search.indexing import Indexing
from lorabel.search.vector_index import MEGABYTE, Hit, VectorIndex
from lorabel.settings import Settings

log = logging.getLogger(__name__)

# How long one search may embed tasks that have no vector yet. The next search goes on.
CATCH_UP_S = 10.0
# Vectors that are read while somebody waits: some tenths of a second.
MOST_READ = 20_000
LABEL_STUDIO_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        hits: the most similar task first.
        indexed: number of tasks that were compared.
        missing: number of the project's tasks that were not compared, since they are not embedded yet or cannot
            be. None if Label Studio does not tell how many tasks there are.
    """

    hits: list[Hit]
    indexed: int
    missing: int | None


class Searcher:
    """Searches projects. Thread-safe."""

    def __init__(
        self, settings: Settings, store: Store, model_client: ModelClient, authorizations: Authorizations
    ) -> None:
        self._settings, self._store = settings, store
        self._model_client, self._authorizations = model_client, authorizations
        self._index = VectorIndex(store, settings.search_memory_mb * MEGABYTE)

    def by_text(self, project_id: int, text: str, limit: int) -> SearchResult:
        """Find the tasks that are most similar to a text.

        Args:
            limit: maximum number of tasks.

        Raises:
            NotFoundError: no such project.
            ConflictError: no control tag of the label config is served, the text cannot be embedded, or the
                vectors do not fit into memory.
            LabelConfigError: the label config cannot be read.
            LabelStudioError: nothing is embedded yet, and Label Studio cannot be reached or failed.
            ModelServerError: the model server cannot be reached or failed.
        """
        project, bound = self._find(project_id)
        modalities = self._modalities(project_id)
        if not modalities:
            total = self._catch_up(project, bound, None)
            modalities = self._modalities(project_id)
        if not modalities:
            return SearchResult([], 0, total)
        # The question for the text must go to the family that embeds most of the tasks.
        question = embeddings.text_question(text, modalities | embeddings.modalities(bound))
        (answer,) = embeddings.embed(self._caller(project_id, Priority.INTERACTIVE), [question])
        return self._nearest(project, bound, _vector(answer), limit)

    def like_task(self, project_id: int, task_id: int, limit: int) -> SearchResult:
        """Find the tasks that are most similar to a task, without the task itself.

        Raises:
            NotFoundError: no such project or task.
            ConflictError, LabelConfigError, LabelStudioError, ModelServerError: as `by_text`.
        """
        project, bound = self._find(project_id)
        with self._store.read() as session:
            row = task_embeddings.get(session, project_id, task_id)
        query = self._embed_task(project, bound, task_id) if row is None else TaskVector(row.space, row.vector)
        return self._nearest(project, bound, query, limit, without=task_id)

    def nearest_known(
        self, project_id: int, query: TaskVector, limit: int, without: int, *, is_waited_for: bool
    ) -> list[Hit]:
        """Find the tasks with vectors that are most similar to a vector; Label Studio and models are not asked.

        Args:
            without: id of a task that is left out.
            is_waited_for: somebody waits, so nothing is found if more than MOST_READ vectors must be read first.

        Raises:
            ConflictError: the vectors do not fit into memory.
        """
        if is_waited_for and self._index.count_unread(project_id, query.space, MOST_READ + 1) > MOST_READ:
            return []
        return self._index.nearest(project_id, query, limit, without)

    def _modalities(self, project_id: int) -> frozenset[Modality]:
        with self._store.read() as session:
            return task_embeddings.most_common_modalities(session, project_id)

    def _find(self, project_id: int) -> tuple[Project, BoundConfig]:
        with self._store.read() as session:
            project = projects.get(session, project_id)
        return project, bind(project.label_config or "")

    def _nearest(
        self, project: Project, bound: BoundConfig, query: TaskVector, limit: int, without: int | None = None
    ) -> SearchResult:
        total = self._catch_up(project, bound, query.space)
        hits = self._index.nearest(project.id, query, limit, without)
        with self._store.read() as session:
            indexed = task_embeddings.count_by_space(session, project.id).get(query.space, 0)
        return SearchResult(hits, indexed, None if total is None else max(0, total - indexed))

    def _catch_up(self, project: Project, bound: BoundConfig, space: str | None) -> int | None:
        """Embed missing tasks for at most CATCH_UP_S.

        Args:
            space: the space of the base model's vectors. None if nothing is embedded yet; then failures are
                raised, otherwise they are only logged.

        Returns:
            How many tasks the project has in Label Studio; None if we cannot ask.
        """
        if api_access(project, self._settings) is None:
            return None
        total: int | None = None
        try:
            with self._client(project) as client:
                total = client.tasks_after(project.label_studio_id, 0, page_size=1).total
                with self._store.read() as session:
                    cursor = _cursor(session, project.id, space, total)
                if cursor is not None:
                    indexing = self._indexing(project, bound, client)
                    indexing.space = space
                    indexing.run(cursor)
        except (LabelStudioError, ModelServerError) as error:
            if space is None:
                raise
            log.warning("project %d: not every task can be found: %s", project.id, error)
        return total

    def _embed_task(self, project: Project, bound: BoundConfig, task_id: int) -> TaskVector:
        with self._client(project) as client:
            tasks = client.tasks_of(project.label_studio_id, [task_id])
        if not tasks:
            raise NotFoundError(f"project {project.id} has no task {task_id}")
        try:
            question = embeddings.question(bound, tasks[0].data)
        except UnreadableError as error:
            raise ConflictError(f"task {task_id} cannot be compared: {error}") from error
        resolve = self._authorizations.resolver(project, self._settings)
        caller = self._caller(project.id, Priority.INTERACTIVE)
        return _vector(embeddings.keep(self._store, caller, {task_id: question}, resolve)[task_id])

    def _indexing(self, project: Project, bound: BoundConfig, client: LabelStudio) -> Indexing:
        caller = PredictionCaller(self._model_client, project.id, Priority.BULK, monotonic() + CATCH_UP_S)
        resolve = self._authorizations.resolver(project, self._settings)
        page_size = self._settings.bulk_page
        return Indexing(self._store, client, project.label_studio_id, caller, bound, resolve, page_size)

    def _caller(self, project_id: int, priority: Priority) -> PredictionCaller:
        return PredictionCaller(
            self._model_client, project_id, priority, monotonic() + self._settings.predict_timeout_s
        )

    def _client(self, project: Project) -> AbstractContextManager[LabelStudio]:
        access = require_api_access(project, self._settings, "its tasks cannot be read")
        return project_client(project, access, LABEL_STUDIO_TIMEOUT_S)


def task_links(project: Project, settings: Settings, hits: Sequence[Hit]) -> list[str | None]:
    """The address of each task in Label Studio's Data Manager; None if Label Studio's address is not known."""
    access = label_studio_access(project, settings)
    return [None if access is None else task_link(project, access.url, hit.task_id) for hit in hits]


def _cursor(session: Session, project_id: int, space: str | None, task_count: int) -> int | None:
    """The id of the task after which embedding goes on, or None if no task is missing."""
    counts = task_embeddings.count_by_space(session, project_id)
    index = task_embeddings.get_index(session, project_id)
    vector_count = sum(counts.values())
    current_count = vector_count if space is None else counts.get(space, 0)
    if vector_count == current_count == task_count:
        return None
    are_tasks_deleted = vector_count > task_count
    is_space_new = space is not None and index.space not in (None, space)
    return 0 if are_tasks_deleted or is_space_new else index.cursor


def _vector(answer: TaskVector | Unreadable) -> TaskVector:
    if isinstance(answer, TaskVector):
        return answer
    if answer.is_permanent:
        raise ConflictError(f"it cannot be compared: {answer.reason}")
    raise ModelServerError(f"it cannot be compared now: {answer.reason}")
