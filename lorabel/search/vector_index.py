"""Vectors of tasks in memory, and the nearest of them to one: all are compared, which is exact and fast enough.

A comparison of 100,000 vectors of 512 numbers takes about as long as reading their 200 MB.
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
ON_THE_WIRE = np.dtype("<f2")


@dataclass(frozen=True)
class Hit:
    """`similarity` is the cosine, in [-1, 1]."""

    task_id: int
    similarity: float


class Vectors:
    """Thread-safe. Only what changed since is read from the database again, by the index's version.

    Args:
        most_bytes: for all projects together; what was not searched for longest is forgotten.
    """

    def __init__(self, store: Store, most_bytes: int) -> None:
        self._store = store
        self._kept: LRUCache[tuple[int, str], _Table] = LRUCache(most_bytes, getsizeof=lambda table: table.nbytes)
        self._lock = threading.Lock()

    def nearest(self, project_id: int, place: TaskVector, limit: int, without: int | None = None) -> list[Hit]:
        """The project's tasks in the place's space, the most similar first.

        Args:
            without: a task that is left out.

        Raises:
            ConflictError: they do not fit into memory.
        """
        (vector,) = _read([place.vector])
        with self._lock:
            table = self._kept.get((project_id, place.space)) or _Table()
        with table.lock:
            self._refresh(table, project_id, place.space, len(vector))
            hits = table.nearest(vector, limit, without)
        with self._lock:
            if table.nbytes <= self._kept.maxsize:
                self._kept[project_id, place.space] = table
        return hits

    def _refresh(self, table: "_Table", project_id: int, space: str, size: int) -> None:
        with self._store.read() as session:
            index = task_embeddings.index_of(session, project_id)
            if table.version < index.deleted_at:
                table.clear()
            if table.version == index.version:
                return
            count = task_embeddings.counts(session, project_id).get(space, 0)
            needed, most = count * size * np.dtype(np.float32).itemsize, int(self._kept.maxsize)
            if needed > most:
                raise ConflictError(
                    f"the {count} vectors of project {project_id} take {needed / MEGABYTE:.0f} MB; "
                    f"raise SEARCH_MEMORY_MB, which is {most // MEGABYTE}"
                )
            table.put(list(task_embeddings.changed(session, project_id, space, table.version)))
            table.version = index.version


class _Table:
    """Task ids, and in the same order their vectors (tasks, dim) float32."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        self.version = -1
        self._ids: NDArray[np.int64] = np.empty(0, np.int64)
        self._matrix: NDArray[np.float32] = np.empty((0, 0), np.float32)

    @property
    def nbytes(self) -> int:
        return self._ids.nbytes + self._matrix.nbytes

    def put(self, rows: Sequence[tuple[int, bytes]]) -> None:
        """Add these tasks, or replace their vectors."""
        if not rows:
            return
        ids = np.array([task_id for task_id, _ in rows], np.int64)
        new = _read([vector for _, vector in rows])
        stays = ~np.isin(self._ids, ids)
        old = self._matrix[stays].reshape(-1, new.shape[1])
        self._matrix = np.concatenate([old, new])
        self._ids = np.concatenate([self._ids[stays], ids])

    def nearest(self, vector: NDArray[np.float32], limit: int, without: int | None) -> list[Hit]:
        if not len(self._ids) or limit < 1:
            return []
        similarities = self._matrix @ vector
        wanted = min(len(self._ids), limit + 1)
        best = np.argpartition(-similarities, wanted - 1)[:wanted]
        best = best[np.lexsort((self._ids[best], -similarities[best]))]
        hits = [Hit(int(self._ids[i]), round(float(similarities[i]), 6)) for i in best]
        return [hit for hit in hits if hit.task_id != without][:limit]


def _read(vectors: Sequence[bytes]) -> NDArray[np.float32]:
    """(vectors, dim), each of length 1 again: float16 leaves it some ten-thousandths off."""
    read = np.frombuffer(b"".join(vectors), ON_THE_WIRE).reshape(len(vectors), -1).astype(np.float32)
    read /= np.linalg.norm(read, axis=1, keepdims=True)
    return read
