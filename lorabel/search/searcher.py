"""The tasks of a project that are most like a text, or like another task.

Pictures are found by words and words by pictures where the project's base model has one space for both.
"""

import logging
from collections.abc import Sequence
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
from lorabel.label_studio.access import api_access, label_studio_access
from lorabel.label_studio.authorizations import Authorizations
from lorabel.label_studio.client import LabelStudio
from lorabel.problems.binding import BoundConfig, bind
from lorabel.search import embeddings
from lorabel.search.indexing import Indexing
from lorabel.search.vector_index import MEGABYTE, Hit, Vectors
from lorabel.settings import Settings

log = logging.getLogger(__name__)

# What one search may spend on tasks that are not embedded yet; the next one goes on.
CATCH_UP_S = 10.0
INDEX_S = 24 * 3600.0
LABEL_STUDIO_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Found:
    """The most similar task first.

    Args:
        indexed: tasks that were compared.
        missing: tasks of the project that were not, since they are not embedded yet or cannot be; None where Label
            Studio does not say.
    """

    hits: list[Hit]
    indexed: int
    missing: int | None


@dataclass(frozen=True)
class Indexed:
    """What a pass over a project's tasks came to; `unread` are those that cannot be embedded, with the reason."""

    embedded: int
    total: int
    unread: dict[int, str]


class Searcher:
    """Thread-safe."""

    def __init__(
        self, settings: Settings, store: Store, model_client: ModelClient, authorizations: Authorizations
    ) -> None:
        self._settings, self._store = settings, store
        self._model_client, self._authorizations = model_client, authorizations
        self._vectors = Vectors(store, settings.search_memory_mb * MEGABYTE)

    def by_text(self, project_id: int, text: str, limit: int) -> Found:
        """Raises NotFoundError, ConflictError, LabelConfigError, LabelStudioError, ModelServerError."""
        project, bound = self._find(project_id)
        modalities = self._modalities(project_id)
        if not modalities:
            total = self._catch_up(project, bound, None)
            modalities = self._modalities(project_id)
        if not modalities:
            return Found([], 0, total)
        asked = embeddings.text_question(text, modalities)
        (place,) = embeddings.embed(self._caller(project_id, Priority.INTERACTIVE), [asked])
        return self._answer(project, bound, _checked(place), limit)

    def like_task(self, project_id: int, task_id: int, limit: int) -> Found:
        """Without the task itself. Raises as `by_text`."""
        project, bound = self._find(project_id)
        with self._store.read() as session:
            row = task_embeddings.get(session, project_id, task_id)
        place = self._embed_task(project, bound, task_id) if row is None else TaskVector(row.space, row.vector)
        return self._answer(project, bound, place, limit, without=task_id)

    def index(self, project_id: int) -> Indexed:
        """Go through the whole project, and notice what was changed or deleted.

        Raises:
            ConflictError: there is no token for the project's Label Studio.
            LabelStudioError, ModelServerError: what was embedded so far is kept.
        """
        project, bound = self._find(project_id)
        with self._client(project) as client:
            indexing = self._indexing(project, bound, client, INDEX_S)
            indexing.run(cursor=0)
            with self._store.read() as session:
                total = sum(task_embeddings.counts(session, project_id).values())
            return Indexed(indexing.embedded, total, indexing.unread)

    def _modalities(self, project_id: int) -> frozenset[Modality]:
        with self._store.read() as session:
            return task_embeddings.modalities(session, project_id)

    def _find(self, project_id: int) -> tuple[Project, BoundConfig]:
        with self._store.read() as session:
            project = projects.get(session, project_id)
        return project, bind(project.label_config or "")

    def _answer(
        self, project: Project, bound: BoundConfig, place: TaskVector, limit: int, without: int | None = None
    ) -> Found:
        total = self._catch_up(project, bound, place.space)
        hits = self._vectors.nearest(project.id, place, limit, without)
        with self._store.read() as session:
            indexed = task_embeddings.counts(session, project.id).get(place.space, 0)
        return Found(hits, indexed, None if total is None else max(0, total - indexed))

    def _catch_up(self, project: Project, bound: BoundConfig, space: str | None) -> int | None:
        """Embed what is missing, for a while. Returns how many tasks Label Studio has, if it says so.

        Args:
            space: None where nothing is embedded yet; then failures are raised, else only logged.
        """
        if api_access(project, self._settings) is None:
            return None
        total: int | None = None
        try:
            with self._client(project) as client:
                total = client.tasks_after(project.id, 0, page_size=1).total
                with self._store.read() as session:
                    cursor = _cursor(session, project.id, space, total)
                if cursor is not None:
                    indexing = self._indexing(project, bound, client, CATCH_UP_S)
                    indexing.space = space
                    indexing.run(cursor)
        except (LabelStudioError, ModelServerError) as error:
            if space is None:
                raise
            log.warning("project %d: not every task can be found: %s", project.id, error)
        return total

    def _embed_task(self, project: Project, bound: BoundConfig, task_id: int) -> TaskVector:
        with self._client(project) as client:
            tasks = client.tasks_of(project.id, [task_id])
        if not tasks:
            raise NotFoundError(f"project {project.id} has no task {task_id}")
        try:
            asked = embeddings.question(bound, tasks[0].data)
        except UnreadableError as error:
            raise ConflictError(f"task {task_id} cannot be compared: {error}") from error
        resolve = self._authorizations.resolver(project, self._settings)
        caller = self._caller(project.id, Priority.INTERACTIVE)
        return _checked(embeddings.keep(self._store, caller, {task_id: asked}, resolve)[task_id])

    def _indexing(self, project: Project, bound: BoundConfig, client: LabelStudio, seconds: float) -> Indexing:
        caller = PredictionCaller(self._model_client, project.id, Priority.BULK, monotonic() + seconds)
        resolve = self._authorizations.resolver(project, self._settings)
        return Indexing(self._store, client, caller, bound, resolve, self._settings.bulk_page)

    def _caller(self, project_id: int, priority: Priority) -> PredictionCaller:
        return PredictionCaller(
            self._model_client, project_id, priority, monotonic() + self._settings.predict_timeout_s
        )

    def _client(self, project: Project) -> LabelStudio:
        access = api_access(project, self._settings)
        if access is None:
            raise ConflictError(
                f"project {project.id}: its tasks cannot be read without a token for its Label Studio; connect it "
                "with `lorabel connect`, or set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"
            )
        return LabelStudio(access.url, access.api_key, LABEL_STUDIO_TIMEOUT_S)


def task_links(project: Project, settings: Settings, hits: Sequence[Hit]) -> list[str | None]:
    """Where a browser finds the tasks in Label Studio's Data Manager."""
    access = label_studio_access(project, settings)
    if access is None:
        return [None] * len(hits)
    return [f"{access.url.rstrip('/')}/projects/{project.id}/data?task={hit.task_id}" for hit in hits]


def _cursor(session: Session, project_id: int, space: str | None, total: int) -> int | None:
    """After which task to go on with embedding; None where none is missing."""
    counts, index = task_embeddings.counts(session, project_id), task_embeddings.index_of(session, project_id)
    kept = sum(counts.values()) if space is None else counts.get(space, 0)
    if sum(counts.values()) == kept == total:
        return None
    is_gone, is_moved = sum(counts.values()) > total, space is not None and index.space not in (None, space)
    return 0 if is_gone or is_moved else index.cursor


def _checked(place: TaskVector | Unreadable) -> TaskVector:
    if isinstance(place, TaskVector):
        return place
    if place.is_permanent:
        raise ConflictError(f"it cannot be compared: {place.reason}")
    raise ModelServerError(f"it cannot be compared now: {place.reason}")
