"""Whether the predicted answer to a whole task is right, and for which kinds of questions that can be said.

What is accepted unseen is the whole task, so nothing in it may be wrong or missing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lorabel.contracts import LabelsInput, LabelTarget
from lorabel.errors import LorabelError, MissingTargetError
from lorabel.evaluation.box_matching import match_boxes
from lorabel.labeling.regions import Region
from lorabel.problems._choices import ChoicesProblem
from lorabel.problems.base import Problem
from lorabel.problems.binding import BoundConfig
from lorabel.problems.boxes import LabelledBoxes
from lorabel.space_contracts import BoxTarget

ALL_LABELS = ""
"""Stands for all labels together."""
SERVED = "one <Choices> with a single choice for the whole task, or boxes in a picture"


def acceptable(bound: BoundConfig) -> Problem:
    """Return the problem of the only control tag, if its answers can be accepted unseen.

    Raises:
        LorabelError: the label config asks something else; the message says what.
    """
    controls = [control.name for control in bound.config.controls]
    problems = [problem for problem in bound.bindings if set(controls) <= set(problem.claims)]
    if len(bound.bindings) != 1 or not problems:
        raise LorabelError(
            f"nothing can be accepted: the label config has the control tags {', '.join(map(repr, controls))}, "
            f"and an accepted task must be answered completely; served are label configs with {SERVED}"
        )
    (problem,) = problems
    is_choice = isinstance(problem, ChoicesProblem) and not problem.is_multiple and problem.taxonomy is None
    if problem.is_per_region or not (is_choice or isinstance(problem, LabelledBoxes)):
        raise LorabelError(
            f"nothing can be accepted: control tag {problem.from_name!r} asks for {problem.name!r}; served are "
            f"label configs with {SERVED}"
        )
    return problem


def label_of(problem: Problem, regions: Sequence[Region], data: Mapping[str, Any]) -> str | None:
    """The label that a task is predicted to have; ALL_LABELS for boxes; None if nothing is predicted."""
    if not regions:
        return None
    if not issubclass(problem.input_type, LabelsInput):
        return ALL_LABELS
    (name,) = problem.label_names(problem.target(list(regions), data)) or ("",)
    return name


def score_of(problem: Problem, regions: Sequence[Region], score: float) -> float:
    """How sure the model is of all of an answer: of several boxes, how sure it is of the least certain.

    Args:
        score: of the whole prediction.
    """
    if issubclass(problem.input_type, LabelsInput):
        return score
    return min((float(region.get("score", score)) for region in regions), default=score)


def is_right(problem: Problem, regions: Sequence[Region], data: Mapping[str, Any], target: Any) -> bool | None:
    """Whether predicted regions say what the annotators say.

    Args:
        target: what the annotators say. Where they disagree, no prediction is right.

    Returns:
        None if a part of the annotation could not be read, so that nobody knows.
    """
    try:
        predicted = problem.target(list(regions), data)
    except MissingTargetError:
        return False
    if isinstance(target, LabelTarget):
        return target.shares is None and bool(predicted.indices == target.indices)
    assert isinstance(target, BoxTarget)
    if target.left_out or target.unlabelled or target.incomplete:
        return None
    return is_same_boxes(predicted, target)


def is_same_boxes(first: BoxTarget, second: BoxTarget) -> bool:
    """Whether each box has its counterpart with the same label and an IoU of at least a half."""
    for label in {label for _, label in (*first.boxes, *second.boxes)}:
        boxes, others = (
            [corners for corners, of_box in target.boxes if of_box == label] for target in (first, second)
        )
        if len(boxes) != len(others) or len(match_boxes(boxes, others)) != len(boxes):
            return False
    return True
