"""Learning curves: the accuracy of the predictions after 0 to 320 annotations.

    python -m benchmarks.curves --quick           fewer seeds and annotations
    python -m benchmarks.curves --docs            table, JSON and picture into docs/ as well
    python -m benchmarks.curves --lora --only digits    also training runs, which take minutes for each curve

Each way to learn is scored on the same test tasks, which are never annotated:

- zero-shot: the base model alone.
- head: fitted to the annotations on the base model's frozen features, in milliseconds (`fit_choices`).
- logistic regression (scikit-learn) on the same features, of two kinds: benchmarks/curve_baselines.py.
- training runs with LoRA, of two kinds: benchmarks/curve_lora.py. Left out without `--lora`.

The data sets of `kind_courses` ask other kinds of questions. Their figure is the metric that decides about
promotion, and their comparisons are in benchmarks/kind_baselines.py. No training runs are made for them.

`series` asks for events of series, see benchmarks/series_curves.py, which prints more by itself. So does
benchmarks/relation_curves.py, with the data sets `related_sentences` and `related_scenes`.

Those of `box_training_curves` ask for boxes. Their ways take minutes, so they are measured with `--lora`, or if
`--only` names them.

The goal, at each number of annotations: the head is at most GOAL_MARGIN less accurate than the best of zero-shot
and the comparisons, medians over the seeds. Cells that miss it are named.
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from benchmarks import (
    box_training_curves,
    curve_baselines,
    curve_features,
    curve_lora,
    curve_report,
    kind_curves,
    machine,
    relation_curves,
    series_curves,
)
from benchmarks.box_training_curves import BOX_COURSES
from benchmarks.calibration import calibration_error
from benchmarks.curve_courses import COURSES, Course
from benchmarks.curve_features import Part
from benchmarks.curve_report import CROSS_VALIDATED, HEAD, SCALED, ZERO_SHOT, Point
from benchmarks.debian_packages import MissingDataError
from benchmarks.kind_courses import KIND_COURSES
from benchmarks.relation_curves import SUBJECTS
from lorabel.families.encoders.heads.fit_choices import fit_choices
from lorabel.families.encoders.heads.linear_head import probabilities
from lorabel.settings import Settings
from workers.services import Services

COUNTS, QUICK_COUNTS = (5, 10, 20, 40, 80, 160, 320), (10, 40)
SEEDS, QUICK_SEEDS = 7, 2
LORA_COUNTS, LORA_SEEDS = (0, 10, 20, 40, 80, 160), 3
# For the sets of `kind_courses`.
KIND_COUNTS, KIND_SEEDS = (5, 10, 20, 40, 80, 160), 3
SERIES = "series"
NAMES = (*COURSES, *KIND_COURSES, *BOX_COURSES, SERIES, *SUBJECTS)
FOLDER = Path("build/curves")


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    counts: Sequence[int]
    seeds: int
    lora_counts: Sequence[int]
    lora_seeds: int
    kind_counts: Sequence[int]
    kind_seeds: int


def main() -> int:
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s %(message)s")
    options = _parse()
    folder: Path = options.out.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    described = machine.describe(Settings(precision="float32"))
    plan = Plan(COUNTS, SEEDS, LORA_COUNTS if options.lora else (), LORA_SEEDS, KIND_COUNTS, KIND_SEEDS)
    if options.quick:
        lora_counts = (0, *QUICK_COUNTS) if options.lora else ()
        plan = Plan(QUICK_COUNTS, QUICK_SEEDS, lora_counts, 1, QUICK_COUNTS, 1)
    points: list[Point] = []
    box_courses = BOX_COURSES if options.lora else ()
    for name in options.only or (*COURSES, *KIND_COURSES, *box_courses, SERIES, *SUBJECTS):
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            if name in COURSES:
                points += _measure(COURSES[name](), plan)
            elif name in BOX_COURSES:
                counts = box_training_curves.QUICK_COUNTS if options.quick else box_training_curves.COUNTS
                seeds = 1 if options.quick else box_training_curves.SEEDS
                points += box_training_curves.measure(name, counts, seeds)
            elif name == SERIES:
                counts = series_curves.COUNTS[1:2] if options.quick else series_curves.COUNTS
                points += series_curves.measure(name, counts, 1 if options.quick else series_curves.SEEDS)
            elif name in SUBJECTS:
                counts = relation_curves.COUNTS[2:3] if options.quick else relation_curves.COUNTS[1:]
                points += relation_curves.measure(name, counts, 1 if options.quick else relation_curves.SEEDS)
            else:
                points += kind_curves.measure(KIND_COURSES[name](), plan.kind_counts, plan.kind_seeds)
        except MissingDataError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    print(curve_report.text(described, points))
    curve_report.write(described, points, folder)
    if options.docs:
        curve_report.write_docs(described, points)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.curves",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=NAMES, help="data sets; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer seeds and annotations")
    parser.add_argument("--lora", action="store_true", help="training runs as well")
    parser.add_argument("--out", type=Path, default=FOLDER, help=f"folder for what is written; {FOLDER}")
    parser.add_argument("--docs", action="store_true", help="put table, JSON and picture into docs/ as well")
    return parser.parse_args()


def _measure(course: Course, plan: Plan) -> list[Point]:
    with TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), models=dict(course.models), precision="float32")
        services = Services.open(settings)
        try:
            points = list(_without_training(services, course, plan))
            for seed in range(plan.lora_seeds if plan.lora_counts else 0):
                points += _training(services, course, seed, plan.lora_counts, Path(folder))
            return points
        finally:
            services.close()


def _without_training(services: Services, course: Course, plan: Plan) -> Iterator[Point]:
    tasks, test = curve_features.compute(services, course)
    zero_shot = probabilities(None, test.features, test.zero_shot)
    for seed in range(plan.seeds):
        yield Point(course.name, ZERO_SHOT, seed, 0, *_accuracy_and_calibration(zero_shot, test), 0.0)
        order = course.order(seed)
        for count in plan.counts:
            for way, learn in WAYS.items():
                began = time.thread_time()
                answers = learn(tasks[order[:count]], test)
                seconds = time.thread_time() - began
                yield Point(course.name, way, seed, count, *_accuracy_and_calibration(answers, test), seconds)


def _head(learned: Part, unseen: Part) -> NDArray[np.float32]:
    shares = np.eye(learned.zero_shot.shape[1], dtype=np.float32)[learned.classes]
    head = fit_choices(learned.features, learned.zero_shot, shares)
    return probabilities(head, unseen.features, unseen.zero_shot)


WAYS: Mapping[str, Callable[[Part, Part], NDArray[np.floating]]] = MappingProxyType(
    {HEAD: _head, SCALED: curve_baselines.scaled, CROSS_VALIDATED: curve_baselines.cross_validated}
)


def _training(
    services: Services, course: Course, seed: int, counts: Sequence[int], folder: Path
) -> Iterator[Point]:
    subject = curve_lora.make_subject(services, course, seed, folder / f"{seed}")
    for way, learn in curve_lora.WAYS.items():
        print(f"{course.name}, {way}, seed {seed} ...", file=sys.stderr, flush=True)
        for count, accuracy, seconds in learn(subject, counts):
            yield Point(course.name, way, seed, count, accuracy, None, seconds)


def _accuracy_and_calibration(answers: NDArray[np.floating], test: Part) -> tuple[float, float]:
    is_right = answers.argmax(1) == test.classes
    return float(is_right.mean()), calibration_error(answers.max(1), is_right)


if __name__ == "__main__":
    sys.exit(main())
