"""Finds the annotations of a project that are probably wrong, the worst first.

The features are the base model's vectors of the tasks. Annotations have not changed these, whereas a model that
was trained on a wrong annotation may have memorised it. `workers/label_errors.py` reads annotations and vectors.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lorabel.curation.confident_learning import find_suspects
from lorabel.database.tables import Annotation
from lorabel.errors import LorabelError, MissingTargetError, UnreadableError
from lorabel.labeling.renamed_labels import NO_RENAMES, Renames, with_current_names
from lorabel.problems._answers import regions_of
from lorabel.problems.base import Problem

log = logging.getLogger(__name__)

Vectors = Mapping[int, NDArray[np.float32]]

# As many as there are folds, so that each model has seen examples of every label.
MIN_TASKS_PER_LABEL = 5
OUT_OF_TIME = "not checked, since the time for label errors was up"


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


UNSUITED = (
    "no annotation of a task that can be read gives labels from a list; they are looked for in Choices and "
    "Taxonomy, not in ratings, orders and entities"
)


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


def annotated_answers(
    problem: Problem, annotations: Sequence[Annotation], renames: Renames = NO_RENAMES
) -> list[AnnotatedAnswer]:
    """The labels that annotations give in a control tag. Annotations without labels in it are left out.

    Args:
        renames: labels of former label configs, by whose names annotations may call them.
    """
    answers = []
    for annotation in annotations:
        try:
            regions = with_current_names(regions_of(annotation.result), renames)
            target = problem.target(regions, annotation.task_data or {})
            labels = problem.label_names(target)
        except (MissingTargetError, UnreadableError):
            continue
        except Exception:  # nobody has checked what an annotation holds
            log.warning("annotation %d is left out", annotation.id, exc_info=True)
            continue
        if labels is not None:
            answers.append(AnnotatedAnswer(annotation.id, annotation.task_id or 0, labels))
    return answers


def find(
    answers: Mapping[str, Sequence[AnnotatedAnswer]],
    vectors: Vectors,
    seed: int,
    has_time: Callable[[], bool] = lambda: True,
) -> LabelErrors:
    """Check every control tag whose annotations give labels of the label config.

    Args:
        answers: from_name -> what annotations give. Those of tasks without a vector are left out.
        vectors: task id -> the task's vector; all in one space.
        has_time: called before each check. If it returns False, the check is left out.

    Raises:
        LorabelError: no control tag has enough annotations; the message says which, and how many are needed.
    """
    finding = Finding()
    for from_name, all_answers in answers.items():
        compared = [answer for answer in all_answers if answer.task_id in vectors]
        if compared:
            finding += _check_tag(from_name, compared, vectors, seed, has_time)
    if not finding.checked:
        why = "; ".join(finding.left_out) or UNSUITED
        raise LorabelError(f"label errors cannot be looked for: {why}")
    errors = sorted(finding.errors, key=lambda error: error.score)
    return LabelErrors(errors, len(finding.checked), finding.left_out)


def _check_tag(
    from_name: str,
    annotated: Sequence[AnnotatedAnswer],
    vectors: Vectors,
    seed: int,
    has_time: Callable[[], bool],
) -> Finding:
    """If each annotation has exactly one label, check all labels at once; else check each label for itself."""
    if all(len(annotation.labels) == 1 for annotation in annotated):
        if not has_time():
            return Finding(left_out=[f"{from_name}: {OUT_OF_TIME}"])
        given = [next(iter(annotation.labels)) for annotation in annotated]
        return _check(from_name, annotated, given, vectors, seed)
    finding = Finding()
    for label in sorted({label for annotation in annotated for label in annotation.labels}):
        if not has_time():
            return finding + Finding(left_out=[f"{from_name}: {label!r} and all labels after it: {OUT_OF_TIME}"])
        given = [label if label in annotation.labels else "" for annotation in annotated]
        finding += _check(from_name, annotated, given, vectors, seed)
    return finding


def _check(
    from_name: str, annotated: Sequence[AnnotatedAnswer], given: Sequence[str], vectors: Vectors, seed: int
) -> Finding:
    """Check labels that exclude each other.

    Args:
        given: one label per annotation, in the same order.
    """
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
