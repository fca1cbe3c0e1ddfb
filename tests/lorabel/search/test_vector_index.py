import numpy as np
import pytest

from lorabel.contracts import Content, EmbedInput, Modality
from lorabel.database import task_embeddings
from lorabel.database.store import Store
from lorabel.database.task_embeddings import TaskVector
from lorabel.errors import ConflictError
from lorabel.search import vector_index
from lorabel.search.vector_index import VectorIndex


def write(store: Store, vectors: dict[int, list[float]], space: str = "s") -> None:
    """Store vectors by task id, scaled to length 1."""
    question = EmbedInput(contents=(Content(modality=Modality.TEXT, text="t"),))
    task_vectors = {task_id: TaskVector(space, as_bytes(vector)) for task_id, vector in vectors.items()}
    task_embeddings.write(store, 1, dict.fromkeys(task_vectors, question), task_vectors)


def as_bytes(vector: list[float]) -> bytes:
    return (np.array(vector) / np.linalg.norm(vector)).astype(vector_index.VECTOR_DTYPE).tobytes()


def nearest(index: VectorIndex, vector: list[float], limit: int = 9) -> list[int]:
    return [hit.task_id for hit in index.nearest(1, TaskVector("s", as_bytes(vector)), limit)]


def test_vectors_in_memory_follow_the_database(store: Store) -> None:
    index = VectorIndex(store, 10**6)
    assert nearest(index, [1, 0]) == []
    write(store, {1: [1, 0], 2: [0, 1], 3: [1, 1]})
    assert nearest(index, [1, 0]) == [1, 3, 2]
    write(store, {1: [-1, 0], 4: [1, 0.1]})
    write(store, {5: [1, 0]}, space="another")
    assert nearest(index, [1, 0]) == [4, 3, 2, 1]
    with store.write() as session:
        task_embeddings.delete_tasks(store, session, 1, [3, 77])
    assert nearest(index, [1, 0], limit=2) == [4, 2]
    with store.write() as session:
        task_embeddings.delete_all(store, session, 1)
    assert nearest(index, [1, 0]) == []


def test_exact_search_agrees_with_sorting_all_similarities(store: Store) -> None:
    generator = np.random.default_rng(0)
    vectors = {task_id: generator.standard_normal(16).tolist() for task_id in range(1, 301)}
    write(store, vectors)
    query = generator.standard_normal(16)
    cosines = {task_id: np.dot(v, query) / np.linalg.norm(v) for task_id, v in vectors.items()}
    expected = sorted(cosines, key=lambda task_id: -cosines[task_id])
    assert nearest(VectorIndex(store, 10**6), query.tolist(), limit=10) == expected[:10]


def test_vectors_that_do_not_fit_into_memory_are_refused_with_the_setting(store: Store) -> None:
    write(store, {i: [1, 0] for i in range(1, 200)})
    with pytest.raises(ConflictError, match="SEARCH_MEMORY_MB"):
        nearest(VectorIndex(store, 1000), [1, 0])


def test_an_index_says_how_many_vectors_it_has_not_read(store: Store) -> None:
    index = VectorIndex(store, 10**6)
    assert index.count_unread(1, "s", 9) == 0
    write(store, {1: [1, 0], 2: [0, 1], 3: [1, 1]})
    assert (index.count_unread(1, "s", 9), index.count_unread(1, "another", 9)) == (3, 0)
    assert index.count_unread(1, "s", 2) == 2
    nearest(index, [1, 0])
    assert index.count_unread(1, "s", 9) == 0
    write(store, {4: [1, 0]})
    assert index.count_unread(1, "s", 9) == 1
    write(store, {1: [0, 1]})
    assert index.count_unread(1, "s", 9) == 2, "one of them was read before it was written anew"
    nearest(index, [1, 0])
    with store.write() as session:
        task_embeddings.delete_tasks(store, session, 1, [2])
    assert index.count_unread(1, "s", 9) == 3, "after a deletion all that is left is read anew"
