"""Vectors of tasks in memory, and a search for the nearest.

A search compares the query with every vector. This is exact and fast enough: comparing 100,000 vectors of 512
numbers takes about as long as reading their 200 MB.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from lorabel.database import task_embeddings
from lorabel.database.store import Store
from lorabel.database.task_embeddings import TaskVector
from lorabel.errors import ConflictError

MEGABYTE = 2**20
# How vectors are stored and sent: little-endian float16.
VECTOR_DTYPE = np.dtype("<f2")


@dataclass(frozen=True)
class Hit:
    """A task that was found. `similarity`: cosine of its vector with the query's, in [-1, 1]."""

    task_id: int
    similarity: float


class VectorIndex:
    """The vectors of several projects. Thread-safe.

    At each search, only the vectors that changed since the last one are read from the database.

    Args:
        max_bytes: memory for all projects together. The project that was not searched for longest leaves first.
    """

    def __init__(self, store: Store, max_bytes: int) -> None:
        self._store = store
        self._tables: LRUCache[tuple[int, str], _Table] = LRUCache(max_bytes, getsizeof=lambda table: table.nbytes)
        self._lock = threading.Lock()

    def nearest(self, project_id: int, query: TaskVector, limit: int, without: int | None = None) -> list[Hit]:
        """The project's tasks that are in the query's space, the most similar first.

        Args:
            limit: maximum number of tasks.
            without: id of a task that is left out.

        Raises:
            ConflictError: the project's vectors do not fit into memory.
        """
        (vector,) = _read([query.vector])
        with self._lock:
            table = self._tables.get((project_id, query.space))
        table = _Table() if table is None else table
        with table.lock:
            self._refresh(table, project_id, query.space, len(vector))
            hits = table.nearest(vector, limit, without)
        with self._lock:
            if table.nbytes <= self._tables.maxsize:
                self._tables[project_id, query.space] = table
        return hits

    def count_unread(self, project_id: int, space: str, most: int) -> int:
        """How many vectors the next search would have to read from the database first, counted up to `most`."""
        with self._lock:
            table = self._tables.get((project_id, space))
        with self._store.look_up() as session:
            index = task_embeddings.get_index(session, project_id)
            since = -1 if table is None or table.version < index.deleted_at else table.version
            if since == index.version:
                return 0
            return task_embeddings.count_changed(session, project_id, space, since, most)

    def _refresh(self, table: "_Table", project_id: int, space: str, dim: int) -> None:
        """Read what changed in the database since the table was last refreshed."""
        with self._store.read() as session:
            index = task_embeddings.get_index(session, project_id)
            if table.version < index.deleted_at:
                table.clear()
            if table.version == index.version:
                return
            count = task_embeddings.count_by_space(session, project_id).get(space, 0)
            needed, available = count * dim * np.dtype(np.float32).itemsize, int(self._tables.maxsize)
            if needed > available:
                raise ConflictError(
                    f"the {count} vectors of project {project_id} take {needed / MEGABYTE:.0f} MB; "
                    f"raise SEARCH_MEMORY_MB, which is {available // MEGABYTE}"
                )
            table.put(list(task_embeddings.read_changed(session, project_id, space, table.version)))
            table.version = index.version


class _Table:
    """Task ids (tasks,), and in the same order their vectors (tasks, dim) float32.

    `version` is that of the database's index when the table was last refreshed; -1 before. The user holds `lock`.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        self.version = -1
        self._ids: NDArray[np.int64] = np.empty(0, np.int64)
        self._matrix: NDArray[np.float32] = np.empty((0, 0), np.float32)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def nbytes(self) -> int:
        return self._ids.nbytes + self._matrix.nbytes

    def put(self, rows: Sequence[tuple[int, bytes]]) -> None:
        """Add tasks, or replace their vectors. Each row is a task id and its vector."""
        if not rows:
            return
        ids = np.array([task_id for task_id, _ in rows], np.int64)
        new = _read([vector for _, vector in rows])
        is_unchanged = ~np.isin(self._ids, ids)
        unchanged = self._matrix[is_unchanged].reshape(-1, new.shape[1])
        self._matrix = np.concatenate([unchanged, new])
        self._ids = np.concatenate([self._ids[is_unchanged], ids])

    def nearest(self, vector: NDArray[np.float32], limit: int, without: int | None) -> list[Hit]:
        if not len(self._ids) or limit < 1:
            return []
        similarities = self._matrix @ vector
        # One more than the limit, since the task `without` may be among them.
        count = min(len(self._ids), limit + 1)
        best = np.argpartition(-similarities, count - 1)[:count]
        best = best[np.lexsort((self._ids[best], -similarities[best]))]
        hits = [Hit(int(self._ids[i]), round(float(similarities[i]), 6)) for i in best]
        return [hit for hit in hits if hit.task_id != without][:limit]


def _read(vectors: Sequence[bytes]) -> NDArray[np.float32]:
    """Read stored vectors as (vectors, dim). They are scaled to length 1 again, which float16 changed slightly."""
    matrix = np.frombuffer(b"".join(vectors), VECTOR_DTYPE).reshape(len(vectors), -1).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix
