"""A project's annotations that are probably wrong, worst first.

Tasks are told apart by the base model's vectors, which the annotations have not changed: a model that was trained
on an error may have learned it by heart.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from lorabel.contracts import MediaRef
from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation
from lorabel.errors import ConflictError, MissingTargetError, UnreadableError
from lorabel.inference.messages import Priority
from lorabel.inference.model_client import ModelClient
from lorabel.inference.requests import PredictionCaller
from lorabel.label_studio.authorizations import Authorizations
from lorabel.problems.base import Problem
from lorabel.problems.binding import BoundConfig, bind
from lorabel.search.embeddings import task_vectors
from lorabel.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = dict[int, NDArray[np.float32]]

TIMEOUT_S = 90.0
# The newest; more would take longer than anybody waits for an answer.
MOST_ANNOTATIONS = 5000
# As many as folds, so that each model has seen some of every label.
FEWEST = 5


@dataclass(frozen=True)
class LabelError:
    """`given` and `suggested` are labels of the label config. Where several may fit, one of them is empty: a label
    was given that does not fit, or one that fits was not. `score` as in `confident_learning.Suspect`."""

    from_name: str
    task_id: int
    annotation_id: int
    given: str
    suggested: str
    score: float


@dataclass(frozen=True)
class LabelErrors:
    """`checked`: how many annotations were looked at. `left_out`: which labels were not, and why."""

    errors: list[LabelError]
    checked: int
    left_out: list[str]


@dataclass(frozen=True)
class AnnotatedAnswer:
    """One annotation and what it says about one control tag."""

    annotation_id: int
    task_id: int
    answers: frozenset[str]


@dataclass(frozen=True)
class Finding:
    """As `LabelErrors`, with the ids of the annotations that were looked at."""

    errors: list[LabelError] = field(default_factory=list)
    checked: frozenset[int] = frozenset()
    left_out: list[str] = field(default_factory=list)

    def __add__(self, other: "Finding") -> "Finding":
        return Finding(self.errors + other.errors, self.checked | other.checked, self.left_out + other.left_out)


@dataclass(frozen=True)
class Sources:
    """Where annotations and vectors come from."""

    settings: Settings
    store: Store
    model_client: ModelClient
    authorizations: Authorizations


def find(here: Sources, project_id: int) -> LabelErrors:
    """In every control tag whose annotations are words of the label config.

    Raises:
        NotFoundError: no such project.
        ConflictError: no control tag has enough annotations; says which and how many it takes.
        ModelServerError: the model server cannot be reached or failed.
    """
    with here.store.read() as session:
        project = projects.get(session, project_id)
        annotations = _usable(session, project_id)
    bound = bind(project.label_config or "")
    resolve = here.authorizations.resolver(project, here.settings)
    caller = PredictionCaller(here.model_client, project_id, Priority.BULK, monotonic() + TIMEOUT_S)
    vectors = _vectors(caller, bound, annotations, resolve)
    found = Finding()
    for problem in bound.bindings:
        said = [one for one in _said(problem, annotations) if one.task_id in vectors]
        if said:
            found += _of_problem(problem.from_name, said, vectors, here.settings.seed)
    if not found.checked:
        raise ConflictError(f"project {project_id}: {_why_nothing(annotations, found.left_out)}")
    return LabelErrors(sorted(found.errors, key=lambda one: one.score), len(found.checked), found.left_out)


def _why_nothing(annotations: Sequence[Annotation], left_out: Sequence[str]) -> str:
    why = "; ".join(left_out) or f"none of its {len(annotations)} annotations says something in words"
    return f"label errors cannot be looked for: {why}"


def _usable(session: Session, project_id: int) -> list[Annotation]:
    newest = (
        select(Annotation)
        .where(
            Annotation.project_id == project_id,
            Annotation.is_deleted.is_(False),
            Annotation.was_cancelled.is_(False),
            Annotation.task_id.is_not(None),
        )
        .order_by(Annotation.received_at.desc(), Annotation.id.desc())
        .limit(MOST_ANNOTATIONS)
    )
    return [row for row in session.scalars(newest) if row.task_data is not None]


def _vectors(
    caller: PredictionCaller,
    bound: BoundConfig,
    annotations: Sequence[Annotation],
    resolve: Callable[[MediaRef], MediaRef],
) -> "Vectors":
    """By task id, of those that can be read."""
    tasks: dict[int, dict[str, Any]] = {row.task_id or 0: row.task_data or {} for row in annotations}
    found = task_vectors(caller, bound, list(tasks.values()), resolve)
    return {task_id: one for task_id, one in zip(tasks, found, strict=True) if one is not None}


def _said(problem: Problem, annotations: Sequence[Annotation]) -> list[AnnotatedAnswer]:
    said = []
    for row in annotations:
        try:
            answers = problem.answers(problem.target(row.result or [], row.task_data or {}))
        except (MissingTargetError, UnreadableError):
            continue
        if answers is not None:
            said.append(AnnotatedAnswer(row.id, row.task_id or 0, answers))
    return said


def _of_problem(from_name: str, said: Sequence[AnnotatedAnswer], vectors: "Vectors", seed: int) -> Finding:
    """One question, if each annotation has one label; else a question for each label: does it fit?"""
    if all(len(one.answers) == 1 for one in said):
        return _check(from_name, said, [next(iter(one.answers)) for one in said], vectors, seed)
    labels = sorted({label for one in said for label in one.answers})
    found = Finding()
    for label in labels:
        given = [label if label in one.answers else "" for one in said]
        found += _check(from_name, said, given, vectors, seed)
    return found


def _check(
    from_name: str, said: Sequence[AnnotatedAnswer], given: Sequence[str], vectors: "Vectors", seed: int
) -> Finding:
    """`given`: of each annotation one of some labels that exclude each other."""
    # They take a second to import, and the backend hardly ever needs them.
    import numpy as np

    from lorabel.curation.confident_learning import find_suspects

    counts = Counter(label for label, _ in {(label, one.task_id) for label, one in zip(given, said, strict=True)})
    labels = sorted(label for label, count in counts.items() if count >= FEWEST)
    left_out = [
        f"{from_name}: {label or 'none of the labels'!r} was given to {count} tasks, {FEWEST} needed"
        for label, count in sorted(counts.items())
        if count < FEWEST
    ]
    if len(labels) < 2:
        return Finding(left_out=left_out or [f"{from_name}: all {len(said)} annotations say the same"])
    kept = [place for place, label in enumerate(given) if label in labels]
    tasks = np.array([said[place].task_id for place in kept])
    features = np.stack([vectors[task_id] for task_id in tasks.tolist()])
    classes = np.array([labels.index(given[place]) for place in kept])
    errors = [
        LabelError(
            from_name,
            said[kept[one.place]].task_id,
            said[kept[one.place]].annotation_id,
            given[kept[one.place]],
            labels[one.suggested],
            one.score,
        )
        for one in find_suspects(features, classes, tasks, seed)
    ]
    return Finding(errors, frozenset(said[place].annotation_id for place in kept), left_out)
