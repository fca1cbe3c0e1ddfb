"""The data sets of `benchmarks.acceptance`, each with what answers its tasks.

Pictures, texts and scenes are encoded once. What a seed changes is which tasks the heads learn from.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import box_curves, curve_features
from benchmarks.curve_courses import COURSES, Course, LabeledTask
from benchmarks.curve_features import Part
from lorabel.curation.whole_answers import ALL_LABELS, is_same_boxes
from lorabel.demo import DETECTOR_FOLDER
from lorabel.families.detector import Detector
from lorabel.families.encoders.heads.fit_choices import fit_choices
from lorabel.families.encoders.heads.linear_head import probabilities
from lorabel.settings import Settings
from lorabel.space_contracts import Boxes, BoxTarget
from workers.services import Services

SCENES = 700
# The part of a ticket's words that is missing, and of the tickets whose label is that of another department.
MISSING_WORDS, WRONG_LABELS = 0.6, 0.1


@dataclass(frozen=True)
class Answer:
    """The answer to a task: its label, how sure the model is, and whether it is right."""

    label: str
    score: float
    is_right: bool


@dataclass(frozen=True)
class DataSet:
    """A data set with what answers its tasks.

    Args:
        annotated: how many of the `tasks` are annotated.
        precisions: those that are asked for.
        answer: (learned, asked) -> the answers to the tasks `asked` of what has learned from `learned`.
    """

    name: str
    tasks: int
    annotated: int
    precisions: Sequence[float]
    answer: Callable[[Sequence[int], Sequence[int]], list[Answer]]


def without_words(course: Course) -> Course:
    """Texts of which most words are missing, so that some no longer say what they are about."""
    generator = random.Random(5)

    def shorten(task: LabeledTask) -> LabeledTask:
        words = task[0]["text"].split()
        kept = [word for word in words if generator.random() >= MISSING_WORDS]
        return {"text": " ".join(kept or words[:1])}, task[1]

    return _changed(course, shorten)


def with_wrong_labels(course: Course) -> Course:
    """Some labels are wrong, of what is annotated as of what is open: no score says which these are."""
    generator, labels = random.Random(6), sorted({label for _, label in course.tasks})

    def mislabel(task: LabeledTask) -> LabeledTask:
        data, label = task
        if generator.random() >= WRONG_LABELS:
            return task
        return data, generator.choice([other for other in labels if other != label])

    return _changed(course, mislabel)


def _changed(course: Course, change: Callable[[LabeledTask], LabeledTask]) -> Course:
    tasks, test = ([change(task) for task in part] for part in (course.tasks, course.test))
    return replace(course, tasks=tasks, test=test)


def _choices(name: str, course: Course, annotated: int, precisions: Sequence[float], folder: Path) -> DataSet:
    services = Services.open(Settings(data_dir=folder, models=dict(course.models), precision="float32"))
    try:
        part, test = curve_features.compute(services, course)
    finally:
        services.close()
    rows = Part(
        np.concatenate([part.features, test.features]),
        np.concatenate([part.zero_shot, test.zero_shot]),
        np.concatenate([part.classes, test.classes]),
    )

    def answer(learned: Sequence[int], asked: Sequence[int]) -> list[Answer]:
        return _choice_answers(rows[learned], rows[asked])

    return DataSet(name, len(rows.classes), annotated, precisions, answer)


def _choice_answers(learned: Part, asked: Part) -> list[Answer]:
    shares = np.eye(learned.zero_shot.shape[1], dtype=np.float32)[learned.classes]
    head = fit_choices(learned.features, learned.zero_shot, shares)
    scores: NDArray[np.float32] = probabilities(head, asked.features, asked.zero_shot)
    chosen = scores.argmax(1)
    return [
        Answer(str(label), float(score), bool(label == right))
        for label, score, right in zip(chosen, scores.max(1), asked.classes, strict=True)
    ]


def _boxes(
    name: str,
    of_set: box_curves.Set,
    annotated: int,
    precisions: Sequence[float],
    *,
    has_head: bool,
) -> DataSet:
    """Drawn scenes and the demo's detector; with a head that is fitted on the annotated scenes, or without."""
    family = Detector.load(f"local-dir:{DETECTOR_FOLDER}", torch.device("cpu"), torch.float32, Settings())
    scenes = box_curves.annotated(family, of_set, SCENES)
    by_texts: list[Boxes] = [] if has_head else box_curves.answers(family, None, scenes)

    def answer(learned: Sequence[int], asked: Sequence[int]) -> list[Answer]:
        outputs = [by_texts[task] for task in asked] if by_texts else headed(learned, asked)
        answers = [_box_answer(output, scenes[task].target) for task, output in zip(asked, outputs, strict=True)]
        return [each for each in answers if each is not None]

    def headed(learned: Sequence[int], asked: Sequence[int]) -> list[Boxes]:
        head = box_curves.head_of([scenes[task] for task in learned])
        return box_curves.answers(family, head, [scenes[task] for task in asked])

    return DataSet(name, len(scenes), annotated, precisions, answer)


def _box_answer(output: Boxes, target: BoxTarget) -> Answer | None:
    """None if no box is predicted: such a picture is not accepted."""
    shown = [box for box in output.boxes if box.probability >= output.threshold]
    if not shown:
        return None
    predicted = BoxTarget(tuple(sorted((box.corners, box.label) for box in shown)))
    score = min(box.probability for box in shown)
    return Answer(ALL_LABELS, score, is_same_boxes(predicted, target))


def _of_course(name: str, annotated: int, precisions: Sequence[float]) -> Callable[[Path], DataSet]:
    return lambda folder: _choices(name, COURSES[name](), annotated, precisions, folder)


def _of_tickets(
    name: str, change: Callable[[Course], Course], annotated: int, precisions: Sequence[float]
) -> Callable[[Path], DataSet]:
    return lambda folder: _choices(name, change(COURSES["tickets"]()), annotated, precisions, folder)


# The words of the label are those that the demo's detector has learned.
_GRADES = box_curves.SETS["grades"]
_KNOWN = box_curves.Set({"blue square": _GRADES.labels["blue square"]}, _GRADES.pairs)

DATA_SETS: Mapping[str, Callable[[Path], DataSet]] = MappingProxyType(
    {
        "digits": _of_course("digits", 500, (0.95, 0.98)),
        "tickets": _of_course("tickets", 400, (0.95, 0.98)),
        "tickets without words": _of_tickets("tickets without words", without_words, 300, (0.8, 0.9, 0.95)),
        "tickets with wrong labels": _of_tickets(
            "tickets with wrong labels", with_wrong_labels, 300, (0.85, 0.9, 0.92)
        ),
        "boxes": lambda _: _boxes("boxes", _KNOWN, 350, (0.8, 0.9, 0.95), has_head=False),
        "boxes with a head": lambda _: _boxes("boxes with a head", _GRADES, 250, (0.8, 0.9, 0.95), has_head=True),
    }
)
