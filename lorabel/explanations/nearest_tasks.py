"""The annotated tasks that are most like a task, with what annotators said about them."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

from lorabel.contracts import MediaRef
from lorabel.database import task_embeddings
from lorabel.database.store import Store
from lorabel.database.task_embeddings import TaskVector
from lorabel.database.task_results import newest_results
from lorabel.errors import UnreadableError
from lorabel.inference.requests import PredictionCaller
from lorabel.labeling.named_labels import named_labels
from lorabel.problems.base import TaskData
from lorabel.problems.binding import BoundConfig
from lorabel.problems.task_questions import with_resolved_media
from lorabel.search import embeddings
from lorabel.search.searcher import Searcher
from lorabel.search.vector_index import Hit

# So many of the tasks that are alike are looked through for annotated ones.
LOOKED_THROUGH = 200


@dataclass(frozen=True)
class AnnotatedHit:
    """An annotated task that is like another. `labels`: of its newest annotation, by control tag."""

    hit: Hit
    labels: Mapping[str, Set[str]]


def annotated_hits(store: Store, project_id: int, hits: Sequence[Hit], most: int) -> list[AnnotatedHit]:
    """Return the first `most` of these tasks that are annotated."""
    with store.read() as session:
        results = newest_results(session, project_id, [hit.task_id for hit in hits])
    annotated = [hit for hit in hits if hit.task_id in results][:most]
    return [AnnotatedHit(hit, named_labels(results[hit.task_id])) for hit in annotated]


def nearest_known(
    searcher: Searcher,
    store: Store,
    caller: PredictionCaller,
    bound: BoundConfig,
    task: tuple[int, TaskData],
    resolve: Callable[[MediaRef], MediaRef],
    most: int,
    *,
    is_waited_for: bool,
) -> list[AnnotatedHit]:
    """Return the `most` annotated tasks that are most like a task that was just predicted.

    Nothing is fetched, computed or stored, and Label Studio is not asked. Empty if the task has no vector, or no
    task that is like it is annotated.

    Args:
        task: its id and its data.
        is_waited_for: see `Searcher.nearest_known`.

    Raises:
        ConflictError, ModelServerError: it cannot be compared.
    """
    task_id, data = task
    query = _known_vector(store, caller, bound, task_id, data, resolve)
    if query is None:
        return []
    hits = searcher.nearest_known(
        caller.project_id, query, LOOKED_THROUGH, without=task_id, is_waited_for=is_waited_for
    )
    return annotated_hits(store, caller.project_id, hits, most)


def _known_vector(
    store: Store,
    caller: PredictionCaller,
    bound: BoundConfig,
    task_id: int,
    data: TaskData,
    resolve: Callable[[MediaRef], MediaRef],
) -> TaskVector | None:
    """The vector that is stored, or that the model server remembers of the prediction."""
    with store.read() as session:
        row = task_embeddings.get(session, caller.project_id, task_id)
    if row is not None:
        return TaskVector(row.space, row.vector)
    try:
        question = embeddings.question(bound, data, is_cache_only=True)
        (vector,) = embeddings.embed(caller, [with_resolved_media(question, resolve)])
    except UnreadableError:
        return None
    return vector if isinstance(vector, TaskVector) else None
