"""Finds the annotations of a project that are probably wrong, the worst first.

The features are the base model's vectors of the tasks. Annotations have not changed these, whereas a model that
was trained on a wrong annotation may have memorised it.
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
from lorabel.label_studio.media_authorizations import Authorizations
from lorabel.problems.base import Problem
from lorabel.problems.binding import BoundConfig, bind
from lorabel.search.embeddings import task_vectors
from lorabel.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = dict[int, NDArray[np.float32]]

TIMEOUT_S = 90.0
# The newest annotations. More would take longer than anybody waits for an answer.
MAX_ANNOTATIONS = 5000
# As many as there are folds, so that each model has seen examples of every label.
MIN_TASKS_PER_LABEL = 5


@dataclass(frozen=True)
class LabelError:
    """An annotation that is probably wrong.

    Attributes:
        given, suggested: labels of the label config. If several labels may fit, one of the two is empty: `given`
            if a label is missing, `suggested` if a label is too much.
        score: from 0 (certainly wrong) to 1 (certainly right), see `confident_learning.Suspect`.
    """

    from_name: str
    task_id: int
    annotation_id: int
    given: str
    suggested: str
    score: float


@dataclass(frozen=True)
class LabelErrors:
    """The label errors of a project, the worst first.

    Attributes:
        checked: number of annotations that were checked.
        left_out: which labels were not checked, and why; a sentence each.
    """

    errors: list[LabelError]
    checked: int
    left_out: list[str]


@dataclass(frozen=True)
class AnnotatedAnswer:
    """The labels that one annotation gives a task in one control tag."""

    annotation_id: int
    task_id: int
    labels: frozenset[str]


@dataclass(frozen=True)
class Finding:
    """A part of `LabelErrors`, with the ids of the annotations that were checked."""

    errors: list[LabelError] = field(default_factory=list)
    checked: frozenset[int] = frozenset()
    left_out: list[str] = field(default_factory=list)

    def __add__(self, other: "Finding") -> "Finding":
        return Finding(self.errors + other.errors, self.checked | other.checked, self.left_out + other.left_out)


@dataclass(frozen=True)
class Sources:
    """What annotations and vectors are read with."""

    settings: Settings
    store: Store
    model_client: ModelClient
    authorizations: Authorizations


def find(sources: Sources, project_id: int) -> LabelErrors:
    """Check every control tag whose annotations give labels of the label config.

    Raises:
        NotFoundError: no such project.
        ConflictError: no control tag has enough annotations; the message says which, and how many are needed.
        LabelConfigError: the label config cannot be read.
        ModelServerError: the model server cannot be reached or failed.
    """
    with sources.store.read() as session:
        project = projects.get(session, project_id)
        annotations = _usable_annotations(session, project_id)
    bound = bind(project.label_config or "")
    resolve = sources.authorizations.resolver(project, sources.settings)
    caller = PredictionCaller(sources.model_client, project_id, Priority.BULK, monotonic() + TIMEOUT_S)
    vectors = _vectors(caller, bound, annotations, resolve)
    finding = Finding()
    for problem in bound.bindings:
        annotated = [labels for labels in _annotated_labels(problem, annotations) if labels.task_id in vectors]
        if annotated:
            finding += _check_problem(problem.from_name, annotated, vectors, sources.settings.seed)
    if not finding.checked:
        raise ConflictError(f"project {project_id}: {_why_nothing(annotations, finding.left_out)}")
    errors = sorted(finding.errors, key=lambda error: error.score)
    return LabelErrors(errors, len(finding.checked), finding.left_out)


def _why_nothing(annotations: Sequence[Annotation], left_out: Sequence[str]) -> str:
    why = "; ".join(left_out) or f"none of its {len(annotations)} annotations says something in words"
    return f"label errors cannot be looked for: {why}"


def _usable_annotations(session: Session, project_id: int) -> list[Annotation]:
    """The newest annotations that were submitted for a task whose data we know."""
    newest = (
        select(Annotation)
        .where(
            Annotation.project_id == project_id,
            Annotation.is_deleted.is_(False),
            Annotation.was_cancelled.is_(False),
            Annotation.task_id.is_not(None),
        )
        .order_by(Annotation.received_at.desc(), Annotation.id.desc())
        .limit(MAX_ANNOTATIONS)
    )
    return [annotation for annotation in session.scalars(newest) if annotation.task_data is not None]


def _vectors(
    caller: PredictionCaller,
    bound: BoundConfig,
    annotations: Sequence[Annotation],
    resolve: Callable[[MediaRef], MediaRef],
) -> "Vectors":
    """By task id the task's vector. Tasks that cannot be read are left out."""
    tasks: dict[int, dict[str, Any]] = {row.task_id or 0: row.task_data or {} for row in annotations}
    vectors = task_vectors(caller, bound, list(tasks.values()), resolve)
    return {task_id: vector for task_id, vector in zip(tasks, vectors, strict=True) if vector is not None}


def _annotated_labels(problem: Problem, annotations: Sequence[Annotation]) -> list[AnnotatedAnswer]:
    annotated = []
    for annotation in annotations:
        try:
            target = problem.target(annotation.result or [], annotation.task_data or {})
            labels = problem.label_names(target)
        except (MissingTargetError, UnreadableError):
            continue
        if labels is not None:
            annotated.append(AnnotatedAnswer(annotation.id, annotation.task_id or 0, labels))
    return annotated


def _check_problem(from_name: str, annotated: Sequence[AnnotatedAnswer], vectors: "Vectors", seed: int) -> Finding:
    """If each annotation has exactly one label, check all labels at once; else check each label for itself."""
    if all(len(annotation.labels) == 1 for annotation in annotated):
        given = [next(iter(annotation.labels)) for annotation in annotated]
        return _check(from_name, annotated, given, vectors, seed)
    finding = Finding()
    for label in sorted({label for annotation in annotated for label in annotation.labels}):
        given = [label if label in annotation.labels else "" for annotation in annotated]
        finding += _check(from_name, annotated, given, vectors, seed)
    return finding


def _check(
    from_name: str, annotated: Sequence[AnnotatedAnswer], given: Sequence[str], vectors: "Vectors", seed: int
) -> Finding:
    """Check labels that exclude each other.

    Args:
        given: one label per annotation, in the same order.
    """
    # These take a second to import, and the backend rarely needs them.
    import numpy as np

    from lorabel.curation.confident_learning import find_suspects

    task_ids = [annotation.task_id for annotation in annotated]
    task_counts = Counter(label for label, _ in set(zip(given, task_ids, strict=True)))
    labels = sorted(label for label, count in task_counts.items() if count >= MIN_TASKS_PER_LABEL)
    left_out = [
        f"{from_name}: {label or 'none of the labels'!r} was given to {count} tasks, {MIN_TASKS_PER_LABEL} needed"
        for label, count in sorted(task_counts.items())
        if count < MIN_TASKS_PER_LABEL
    ]
    if len(labels) < 2:
        return Finding(left_out=left_out or [f"{from_name}: all {len(annotated)} annotations say the same"])
    checked = [index for index, label in enumerate(given) if label in labels]
    tasks = np.array([task_ids[index] for index in checked])
    features = np.stack([vectors[task_id] for task_id in tasks.tolist()])
    classes = np.array([labels.index(given[index]) for index in checked])
    errors = []
    for suspect in find_suspects(features, classes, tasks, seed):
        index = checked[suspect.index]
        annotation, suggested = annotated[index], labels[suspect.suggested]
        errors.append(
            LabelError(
                from_name, annotation.task_id, annotation.annotation_id, given[index], suggested, suspect.score
            )
        )
    return Finding(errors, frozenset(annotated[index].annotation_id for index in checked), left_out)
