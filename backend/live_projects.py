"""What a prediction needs to know of a project, kept in memory as long as the database says the same.

A project's row has a new `updated_at` after each change: a promotion, a rollback, heads that were fitted, another
label config, other extra params. So a request reads the times of the rows that its key may mean, in one query
without objects, and only if one has changed, the project with its version, heads and label config. Other
processes and other machines need not tell this one anything.
"""

from dataclasses import dataclass
from threading import Lock
from typing import Any

from cachetools import LRUCache
from sqlalchemy import bindparam, exists, select

from lorabel.database import projects
from lorabel.database.plain_query import PlainQuery
from lorabel.database.project_keys import ProjectKey
from lorabel.database.store import Store
from lorabel.database.tables import Project, UnreadableTask
from lorabel.inference import unreadable_tasks
from lorabel.inference.prediction import ProjectModel
from lorabel.label_studio.access import api_access
from lorabel.settings import Settings

# Projects whose models are kept. Each takes some ten kilobytes.
MOST_KEPT = 512

Stamps = tuple[tuple[Any, ...], ...]
"""Of each row that a key may mean: id, time of the last change, live version, newest head."""

# Of the tables, not of the classes: the answers are plain rows.
_PROJECTS, _UNREADABLE = Project.__table__.c, UnreadableTask.__table__.c
# The last column says whether some of the project's tasks could not be read.
STAMPS = (
    select(
        _PROJECTS.id,
        _PROJECTS.updated_at,
        _PROJECTS.live_number,
        _PROJECTS.head_number,
        exists().where(_UNREADABLE.project_id == _PROJECTS.id),
    )
    .where(_PROJECTS.label_studio_id == bindparam("label_studio_id"))
    .order_by(_PROJECTS.id)
)


@dataclass(frozen=True)
class LiveProject:
    """A project as the database knows it at the time of the request.

    Attributes:
        project: the row, which belongs to no session, and which nobody changes.
        unreadable_task_ids: the tasks that could not be read when they were last predicted.
    """

    project: Project
    model: ProjectModel
    unreadable_task_ids: frozenset[int]


@dataclass(frozen=True)
class _Kept:
    stamps: Stamps
    project: Project
    model: ProjectModel


class LiveProjects:
    """The projects of requests, with the models that answer now. Thread-safe."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._stamps = PlainQuery(store.engine, STAMPS)
        self._kept: LRUCache[tuple[ProjectKey, str], _Kept] = LRUCache(MOST_KEPT)
        self._lock = Lock()

    def get(self, key: ProjectKey, label_config: str) -> LiveProject:
        """The project of a request. The label config of the request is written to it if that is new.

        Smart tools and test requests come without /setup, so the project may be new, too.

        Raises:
            ConflictError: it cannot be told which project the key means.
            LabelConfigError: the label config cannot be read.
        """
        # Before anything else is read: what is kept may be newer than its stamps, and never older.
        rows = self._stamps.rows(label_studio_id=key.label_studio_id)
        stamps = tuple(row[:4] for row in rows)
        with self._lock:
            kept = self._kept.get((key, label_config))
        if kept is not None and kept.stamps == stamps:
            has_unreadable = any(row[0] == kept.project.id and row[4] for row in rows)
            return LiveProject(kept.project, kept.model, self._unreadable(kept) if has_unreadable else frozenset())
        loaded = self._load(key, label_config, stamps)
        if loaded is not None:
            return loaded
        project = projects.resolve(self._store, key)
        projects.upsert(self._store, project.id, label_config=label_config)
        return self.get(key, label_config)

    def looked_ahead(self, key: ProjectKey, label_config: str) -> Project | None:
        """As `get` found it: the project if its tasks can be predicted before they are opened.

        They can if we serve a control tag, and have a token to ask Label Studio which tasks come next.
        """
        with self._lock:
            kept = self._kept.get((key, label_config))
        if kept is None or not kept.model.bound.bindings or api_access(kept.project, self._settings) is None:
            return None
        return kept.project

    def _unreadable(self, kept: _Kept) -> frozenset[int]:
        with self._store.look_up() as session:
            return unreadable_tasks.known(session, kept.project.id)

    def _load(self, key: ProjectKey, label_config: str, stamps: Stamps) -> LiveProject | None:
        """None if the database does not know the project, or knows another label config of it."""
        with self._store.look_up() as session:
            project = projects.find(session, key)
            if project is None or project.label_config != label_config:
                return None
            model = ProjectModel.of(session, project, self._settings)
            unreadable = unreadable_tasks.known(session, project.id)
        with self._lock:
            self._kept[key, label_config] = _Kept(stamps, project, model)
        return LiveProject(project, model, unreadable)
