"""The embeddings of a project's tasks as rows, and the versions by which a reader finds what changed."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from lorabel.contracts import EmbedInput, Modality
from lorabel.database.store import Store
from lorabel.database.tables import EmbeddingIndex, TaskEmbedding
from lorabel.media.fetching import digest

IDS_PER_QUERY = 500


@dataclass(frozen=True)
class TaskVector:
    """A vector of length 1, as little-endian float16, and the space that it is in."""

    space: str
    vector: bytes


class Known(NamedTuple):
    """What a task's vector was made of, and where it lies."""

    contents: str
    space: str


def contents_digest(asked: EmbedInput) -> str:
    """What tells changed task data from what was embedded. A file that changed at its address is not noticed."""
    return digest(asked.model_dump_json(include={"contents"}).encode())


def write(
    store: Store, project_id: int, asked: Mapping[int, EmbedInput], places: Mapping[int, TaskVector]
) -> None:
    """Replace what is known of the tasks that have a place."""
    if not places:
        return
    insert = store.insert(TaskEmbedding)
    names = ("contents", "modalities", "space", "vector", "version")
    upsert = insert.on_conflict_do_update(
        index_elements=["project_id", "task_id"], set_={name: insert.excluded[name] for name in names}
    )
    with store.write() as session:
        version = _next_version(store, session, project_id).version
        rows: list[dict[str, Any]] = [
            {
                "project_id": project_id,
                "task_id": task_id,
                "contents": contents_digest(asked[task_id]),
                "modalities": " ".join(sorted({content.modality for content in asked[task_id].contents})),
                "space": place.space,
                "vector": place.vector,
                "version": version,
            }
            for task_id, place in sorted(places.items())
        ]
        session.connection().execute(upsert, rows)


def forget(store: Store, session: Session, project_id: int, task_ids: Collection[int]) -> None:
    """Deleted tasks leave."""
    for chunk in _chunks(sorted(task_ids)):
        _delete(store, session, project_id, TaskEmbedding.task_id.in_(chunk))


def forget_all(store: Store, session: Session, project_id: int) -> None:
    """The project was deleted."""
    _delete(store, session, project_id)


def _delete(store: Store, session: Session, project_id: int, *which: ColumnElement[bool]) -> None:
    gone = delete(TaskEmbedding).where(TaskEmbedding.project_id == project_id, *which)
    if session.execute(gone.returning(TaskEmbedding.task_id)).first() is not None:
        index = _next_version(store, session, project_id)
        index.deleted_at = index.version


def index_of(session: Session, project_id: int) -> EmbeddingIndex:
    """A new one, outside of the session, where nothing was embedded yet."""
    found = session.get(EmbeddingIndex, project_id)
    return found or EmbeddingIndex(project_id=project_id, version=0, deleted_at=0, cursor=0)


def set_cursor(store: Store, project_id: int, cursor: int, space: str | None) -> None:
    with store.write() as session:
        index = _locked(store, session, project_id)
        index.cursor, index.space = cursor, space


def known(session: Session, project_id: int, after: int, up_to: int | None) -> dict[int, Known]:
    """Of the tasks with `after` < id <= `up_to`, by task id."""
    columns = (TaskEmbedding.task_id, TaskEmbedding.contents, TaskEmbedding.space)
    query = select(*columns).where(TaskEmbedding.project_id == project_id, TaskEmbedding.task_id > after)
    if up_to is not None:
        query = query.where(TaskEmbedding.task_id <= up_to)
    return {task_id: Known(contents, space) for task_id, contents, space in session.execute(query)}


def counts(session: Session, project_id: int) -> dict[str, int]:
    """How many tasks are embedded, by space."""
    of_project = select(TaskEmbedding.space, func.count()).where(TaskEmbedding.project_id == project_id)
    return {row[0]: row[1] for row in session.execute(of_project.group_by(TaskEmbedding.space))}


def modalities(session: Session, project_id: int) -> frozenset[Modality]:
    """Those of most tasks that are embedded; empty where none is."""
    count = func.count()
    query = select(TaskEmbedding.modalities).where(TaskEmbedding.project_id == project_id)
    found = session.scalar(query.group_by(TaskEmbedding.modalities).order_by(count.desc()).limit(1))
    return frozenset(Modality(name) for name in (found or "").split())


def get(session: Session, project_id: int, task_id: int) -> TaskEmbedding | None:
    return session.get(TaskEmbedding, (project_id, task_id))


def changed(session: Session, project_id: int, space: str, since: int) -> Iterator[tuple[int, bytes]]:
    """Task ids and vectors that were written after that version of the index."""
    query = select(TaskEmbedding.task_id, TaskEmbedding.vector).where(
        TaskEmbedding.project_id == project_id, TaskEmbedding.version > since, TaskEmbedding.space == space
    )
    for row in session.execute(query.execution_options(yield_per=IDS_PER_QUERY)):
        yield row.task_id, row.vector


def _next_version(store: Store, session: Session, project_id: int) -> EmbeddingIndex:
    """Locked until the transaction ends, so that versions come to light in their order."""
    index = _locked(store, session, project_id)
    index.version += 1
    return index


def _locked(store: Store, session: Session, project_id: int) -> EmbeddingIndex:
    row = {"project_id": project_id, "version": 0, "deleted_at": 0, "cursor": 0}
    insert = store.insert(EmbeddingIndex).on_conflict_do_nothing(index_elements=["project_id"])
    session.connection().execute(insert, [row])
    return session.get_one(EmbeddingIndex, project_id, with_for_update=True)


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (ids[start : start + IDS_PER_QUERY] for start in range(0, len(ids), IDS_PER_QUERY))
