"""How often the promise of `lorabel accept` is missed, over many divisions into annotated and open tasks.

    python -m benchmarks.acceptance                        200 seeds of digits, tickets and boxes
    python -m benchmarks.acceptance --only digits --seeds 20

A seed divides the tasks of a data set into annotated and open ones. As in the product (`workers/unseen_cases.py`),
each annotated task is answered by a head that was fitted without its part, and the open tasks by a head that was
fitted on all. Then `prove` chooses scores, and the truth about the open tasks tells whether the promise was kept.

- of each label: the promise is about each label by itself. Of all labels that something was accepted of, in all
  seeds, the part whose promise was missed.
- together: the promise is about all that is accepted. Of all seeds that anything was accepted in, the part in
  which it was missed.

The goal: no more than 5% of the seeds, which is what the promise permits. Seeds in which nothing was accepted
count as kept; how many these are is printed, as is the part of the open tasks that is accepted (coverage).
"""

import argparse
import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import cast

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks import box_curves, curve_features, machine
from benchmarks.curve_courses import COURSES
from benchmarks.curve_features import Part
from lorabel.contracts import Content, MediaRef, Modality
from lorabel.curation.proven_precision import Case, prove, smallest_breach
from lorabel.curation.whole_answers import ALL_LABELS, is_same_boxes
from lorabel.demo import DETECTOR_FOLDER
from lorabel.demo.scenes import png, random_scenes
from lorabel.families.detection.views import PreparedInput
from lorabel.families.detector import Detector
from lorabel.families.encoders.heads.fit_choices import fit_choices
from lorabel.families.encoders.heads.linear_head import probabilities
from lorabel.settings import Settings
from lorabel.space_contracts import Boxes, BoxesInput, BoxTarget
from workers.services import Services
from workers.unseen_cases import FOLDS

SEEDS = 200
CONFIDENCE = 0.95
BOXES = "boxes"
SCENES = 700


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


@dataclass
class Tally:
    """What came of the seeds, for one data set, precision and kind of promise.

    Attributes:
        promises: how often something was accepted.
        missed: how often that had too many errors.
        empty: seeds in which nothing was accepted.
        coverage: the part of the open tasks that was accepted, of each seed.
        precision: the part of the accepted tasks that was right, of each seed in which there were any.
    """

    promises: int
    missed: int
    empty: int
    coverage: list[float]
    precision: list[float]

    @classmethod
    def none(cls) -> "Tally":
        return cls(0, 0, 0, [], [])

    def add(
        self, cases: Sequence[Answer], unseen: Sequence[Answer], precision: float, labels: Sequence[str]
    ) -> None:
        """Count one seed.

        Args:
            labels: each with a promise of its own; ALL_LABELS for one about all.
        """
        accepted: list[Answer] = []
        for label in labels:
            known, asked = _of(cases, label), _of(unseen, label)
            scored = [Case(answer.score, answer.is_right) for answer in known]
            proof = prove(scored, [answer.score for answer in asked], precision, CONFIDENCE)
            if proof.score is None:
                continue
            chosen = [answer for answer in asked if answer.score >= proof.score]
            errors = sum(not answer.is_right for answer in chosen)
            self.promises += 1
            self.missed += errors >= smallest_breach(len(chosen), precision)
            accepted += chosen
        self.empty += not accepted
        self.coverage.append(len(accepted) / len(unseen))
        if accepted:
            self.precision.append(sum(answer.is_right for answer in accepted) / len(accepted))


def main() -> int:
    options = _parse()
    print(machine.describe(Settings(precision="float32")))
    print(f"{options.seeds} seeds, confidence {CONFIDENCE:.0%}, {FOLDS} folds")
    columns = (
        "data set",
        "annotated",
        "open",
        "precision",
        "promise",
        "promises",
        "missed",
        "seeds without",
        "coverage",
    )
    print(" | ".join((*columns, "lowest precision reached")))
    missed_goal = 0
    for name in options.only or DATA_SETS:
        began = time.monotonic()
        with TemporaryDirectory() as folder:
            for line, is_kept in measure(DATA_SETS[name](Path(folder)), options.seeds):
                print(line, flush=True)
                missed_goal += not is_kept
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return int(missed_goal > 0)


def measure(data: DataSet, seeds: int) -> Iterator[tuple[str, bool]]:
    """Yield a row for each precision and kind of promise, and whether the goal is reached there."""
    tallies: dict[tuple[float, str], Tally] = {}
    for seed in range(seeds):
        cases, unseen = divide(data, seed)
        labels = sorted({answer.label for answer in (*cases, *unseen)})
        for precision in data.precisions:
            for promise, of_labels in (("each label", labels), ("together", [ALL_LABELS])):
                if promise == "each label" and labels == [ALL_LABELS]:
                    continue
                tallies.setdefault((precision, promise), Tally.none()).add(cases, unseen, precision, of_labels)
    for (precision, promise), tally in tallies.items():
        share = tally.missed / tally.promises if tally.promises else 0.0
        lowest = f"{min(tally.precision):.3f}" if tally.precision else "-"
        row = (data.name, data.annotated, data.tasks - data.annotated, precision, promise, tally.promises)
        line = " | ".join(map(str, row))
        coverage = float(np.mean(tally.coverage))
        yield f"{line} | {tally.missed} ({share:.1%}) | {tally.empty} | {coverage:.1%} | {lowest}", share <= 0.05


def divide(data: DataSet, seed: int) -> tuple[list[Answer], list[Answer]]:
    """The cases and the answers to the open tasks. Tasks without an answer are in neither."""
    order = list(range(data.tasks))
    random.Random(seed).shuffle(order)
    annotated, unseen = order[: data.annotated], order[data.annotated :]
    cases: list[Answer] = []
    with threadpool_limits(1):
        for fold in range(FOLDS):
            tested = annotated[fold::FOLDS]
            cases += data.answer([task for task in annotated if task not in set(tested)], tested)
        return cases, data.answer(annotated, unseen)


def _of(answers: Sequence[Answer], label: str) -> list[Answer]:
    return [answer for answer in answers if label in (ALL_LABELS, answer.label)]


def _course(name: str, annotated: int, precisions: Sequence[float], folder: Path) -> DataSet:
    course = COURSES[name]()
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
        return _answers(rows[learned], rows[asked])

    return DataSet(name, len(rows.classes), annotated, precisions, answer)


def _answers(learned: Part, asked: Part) -> list[Answer]:
    shares = np.eye(learned.zero_shot.shape[1], dtype=np.float32)[learned.classes]
    head = fit_choices(learned.features, learned.zero_shot, shares)
    scores: NDArray[np.float32] = probabilities(head, asked.features, asked.zero_shot)
    chosen = scores.argmax(1)
    return [
        Answer(str(label), float(score), bool(label == right))
        for label, score, right in zip(chosen, scores.max(1), asked.classes, strict=True)
    ]


def _boxes(annotated: int, precisions: Sequence[float], folder: Path) -> DataSet:
    """Drawn scenes and the demo's detector, which has learned the words of the labels; no head is fitted."""
    of_set = box_curves.SETS["grades"]
    labels = ("blue square",)
    models = {"detector": f"local-dir:{DETECTOR_FOLDER}"}
    services = Services.open(Settings(data_dir=folder, models=models, precision="float32"))
    try:
        family = services.family(Detector)
        assert isinstance(family, Detector)
        picture = Content(modality=Modality.IMAGE, media=MediaRef(url="scene"))
        question = BoxesInput(contents=(picture,), labels=tuple((label,) for label in labels))
        scenes = list(itertools.islice(random_scenes(77, box_curves.SIZE, None, of_set.pairs), SCENES))
        targets = [
            BoxTarget(
                tuple(sorted((thing.corners, 0) for thing in scene.things if of_set.labels[labels[0]](thing)))
            )
            for scene in scenes
        ]
        prepared = [
            cast(PreparedInput, family.prepare(question, lambda _, scene=scene: png(scene)))  # type: ignore[misc]
            for scene in scenes
        ]
        outputs = cast(list[Boxes], box_curves.predict(family, prepared))
    finally:
        services.close()
    answers = [_box_answer(output, target) for output, target in zip(outputs, targets, strict=True)]

    def answer(_: Sequence[int], asked: Sequence[int]) -> list[Answer]:
        return [found for task in asked if (found := answers[task]) is not None]

    return DataSet(BOXES, len(answers), annotated, precisions, answer)


def _box_answer(output: Boxes, target: BoxTarget) -> Answer | None:
    """None if no box is predicted: such a picture is not accepted."""
    found = [box for box in output.boxes if box.probability >= output.threshold]
    if not found:
        return None
    predicted = BoxTarget(tuple(sorted((box.corners, box.label) for box in found)))
    score = min(box.probability for box in found)
    return Answer(ALL_LABELS, score, is_same_boxes(predicted, target))


DATA_SETS: Mapping[str, Callable[[Path], DataSet]] = MappingProxyType(
    {
        "digits": lambda folder: _course("digits", 500, (0.95, 0.98), folder),
        "tickets": lambda folder: _course("tickets", 400, (0.95, 0.98), folder),
        BOXES: lambda folder: _boxes(350, (0.8, 0.9, 0.95), folder),
    }
)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.acceptance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=list(DATA_SETS), help="data sets; all by default")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"divisions into annotated and open; {SEEDS}")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
