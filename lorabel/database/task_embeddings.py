"""Rows of task embeddings, and a version per project by which a reader finds the rows that changed."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from lorabel.contracts import EmbedInput, Modality
from lorabel.database.store import IDS_PER_QUERY, Store, id_chunks
from lorabel.database.tables import EmbeddingIndex, TaskEmbedding
from lorabel.media.fetching import digest


@dataclass(frozen=True)
class TaskVector:
    """A vector of length 1, as little-endian float16, and the space that it is in."""

    space: str
    vector: bytes


class EmbeddingKey(NamedTuple):
    """What a task's vector depends on: the digest of its contents and the space of the base model."""

    contents: str
    space: str


def contents_digest(embed_input: EmbedInput) -> str:
    """Digest of the addresses and texts of an input. Other bytes at the same address give the same digest."""
    return digest(embed_input.model_dump_json(include={"contents"}).encode())


def write(
    store: Store, project_id: int, inputs: Mapping[int, EmbedInput], vectors: Mapping[int, TaskVector]
) -> None:
    """Insert or replace the embeddings of some tasks.

    Args:
        inputs: task id -> what was embedded; it has at least the tasks of `vectors`.
        vectors: task id -> its vector.
    """
    if not vectors:
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
                "contents": contents_digest(inputs[task_id]),
                "modalities": " ".join(sorted({content.modality for content in inputs[task_id].contents})),
                "space": task_vector.space,
                "vector": task_vector.vector,
                "version": version,
            }
            for task_id, task_vector in sorted(vectors.items())
        ]
        session.connection().execute(upsert, rows)


def delete_tasks(store: Store, session: Session, project_id: int, task_ids: Collection[int]) -> None:
    """Delete the embeddings of tasks that are no longer in Label Studio."""
    for chunk in id_chunks(sorted(task_ids)):
        _delete(store, session, project_id, TaskEmbedding.task_id.in_(chunk))


def delete_all(store: Store, session: Session, project_id: int) -> None:
    """Delete all embeddings of a project."""
    _delete(store, session, project_id)


def _delete(store: Store, session: Session, project_id: int, *conditions: ColumnElement[bool]) -> None:
    deletion = delete(TaskEmbedding).where(TaskEmbedding.project_id == project_id, *conditions)
    if session.execute(deletion.returning(TaskEmbedding.task_id)).first() is not None:
        index = _next_version(store, session, project_id)
        index.deleted_at = index.version


def get_index(session: Session, project_id: int) -> EmbeddingIndex:
    """The project's index. If there is none yet, a new row that is not added to the session."""
    index = session.get(EmbeddingIndex, project_id)
    return index or EmbeddingIndex(project_id=project_id, version=0, deleted_at=0, cursor=0)


def set_cursor(store: Store, project_id: int, cursor: int, space: str | None) -> None:
    """Note that search has looked at every task up to the id `cursor`, for vectors of `space`."""
    with store.write() as session:
        index = _locked(store, session, project_id)
        index.cursor, index.space = cursor, space


def read_keys(session: Session, project_id: int, after: int, up_to: int | None) -> dict[int, EmbeddingKey]:
    """Task id -> key of its embedding, for the embedded tasks with `after` < id <= `up_to`.

    Args:
        up_to: None for no upper limit.
    """
    columns = (TaskEmbedding.task_id, TaskEmbedding.contents, TaskEmbedding.space)
    query = select(*columns).where(TaskEmbedding.project_id == project_id, TaskEmbedding.task_id > after)
    if up_to is not None:
        query = query.where(TaskEmbedding.task_id <= up_to)
    return {task_id: EmbeddingKey(contents, space) for task_id, contents, space in session.execute(query)}


def count_by_space(session: Session, project_id: int) -> dict[str, int]:
    """Space -> how many tasks of the project have a vector in it."""
    of_project = select(TaskEmbedding.space, func.count()).where(TaskEmbedding.project_id == project_id)
    return {row[0]: row[1] for row in session.execute(of_project.group_by(TaskEmbedding.space))}


def most_common_modalities(session: Session, project_id: int) -> frozenset[Modality]:
    """The set of modalities that most embedded tasks of the project have; empty if no task is embedded."""
    count = func.count()
    query = select(TaskEmbedding.modalities).where(TaskEmbedding.project_id == project_id)
    names = session.scalar(query.group_by(TaskEmbedding.modalities).order_by(count.desc()).limit(1))
    return frozenset(Modality(name) for name in (names or "").split())


def get(session: Session, project_id: int, task_id: int) -> TaskEmbedding | None:
    """The embedding of a task; None if it is not embedded."""
    return session.get(TaskEmbedding, (project_id, task_id))


def read(session: Session, project_id: int, task_ids: Collection[int]) -> dict[int, TaskEmbedding]:
    """Task id -> its embedding, for the tasks that are embedded."""
    return {
        row.task_id: row
        for chunk in id_chunks(sorted(task_ids))
        for row in session.scalars(
            select(TaskEmbedding).where(TaskEmbedding.project_id == project_id, TaskEmbedding.task_id.in_(chunk))
        )
    }


def read_changed(session: Session, project_id: int, space: str, since: int) -> Iterator[tuple[int, bytes]]:
    """Task ids and vectors (little-endian float16) that were written after a version of the index.

    Args:
        since: the version; -1 for all vectors of the space.
    """
    query = select(TaskEmbedding.task_id, TaskEmbedding.vector).where(
        TaskEmbedding.project_id == project_id, TaskEmbedding.version > since, TaskEmbedding.space == space
    )
    for row in session.execute(query.execution_options(yield_per=IDS_PER_QUERY)):
        yield row.task_id, row.vector


def count_changed(session: Session, project_id: int, space: str, since: int, most: int) -> int:
    """How many vectors `read_changed` would read, counted up to `most`."""
    changed = select(TaskEmbedding.task_id).where(
        TaskEmbedding.project_id == project_id, TaskEmbedding.version > since, TaskEmbedding.space == space
    )
    return session.scalar(select(func.count()).select_from(changed.limit(most).subquery())) or 0


def _next_version(store: Store, session: Session, project_id: int) -> EmbeddingIndex:
    """Increment the version of the project's index and lock it until the transaction ends.

    Because of the lock, versions are committed in their order, and a reader misses none.
    """
    index = _locked(store, session, project_id)
    index.version += 1
    return index


def _locked(store: Store, session: Session, project_id: int) -> EmbeddingIndex:
    """The project's index, inserted if it is missing, and locked until the transaction ends."""
    row = {"project_id": project_id, "version": 0, "deleted_at": 0, "cursor": 0}
    insert = store.insert(EmbeddingIndex).on_conflict_do_nothing(index_elements=["project_id"])
    session.connection().execute(insert, [row])
    return session.get_one(EmbeddingIndex, project_id, with_for_update=True)
