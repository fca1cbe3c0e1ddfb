"""Learning curves: how right the predictions are after 0 to 160 annotations.

    python -m benchmarks.curves --quick           one seed, fewer annotations
    python -m benchmarks.curves --docs            table, JSON and picture into docs/ as well

Each way to learn is scored on the same test tasks, which nobody annotates:

- Lorabel: a run after each batch of annotations, from the live adapter, with what is new and a bounded replay of
  what is old; live only if it is not worse on the fifth of the annotated tasks that is held out.
- from scratch: a new adapter from all annotations each time, which costs more with every annotation.
- logistic regression (scikit-learn) on the base model's frozen features, from all annotations.

Without annotations the first two are the base model as it is; the third knows nothing yet.
"""

import argparse
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from sklearn.linear_model import LogisticRegression

from benchmarks import curve_report, machine
from benchmarks.curve_courses import COURSES, Course, Known
from benchmarks.curve_report import LORABEL, REGRESSION, SCRATCH, Point
from lorabel.contracts import MediaRef
from lorabel.database.tables import Annotation
from lorabel.families.base import Family
from lorabel.families.loading import family_for
from lorabel.labeling.regions import choices
from lorabel.problems.base import Problem
from lorabel.problems.binding import BoundConfig, bind
from lorabel.settings import Settings
from workers import evaluate, examples, lora
from workers.candidate import TrainingContext, make_candidate
from workers.services import Services

COUNTS, QUICK_COUNTS = (0, 10, 20, 40, 80, 160), (0, 10, 40)
SEEDS, QUICK_SEEDS = 3, 1
FOLDER = Path("build/curves")
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Class:
    """One course with one seed: who learns, from what, and the test."""

    services: Services
    course: Course
    bound: BoundConfig
    family: Family
    known: Sequence[Known]
    test: Sequence[examples.PreparedExample]
    seed: int
    folder: Path

    @property
    def problem(self) -> Problem:
        return self.bound.bindings[0]

    @property
    def recipe(self) -> lora.Recipe:
        return lora.Recipe.from_settings(self.services.settings, "float32")


def main() -> int:
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s %(message)s")
    options = _parse()
    folder: Path = options.out.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    where = machine.describe(Settings(precision="float32"))
    points: list[Point] = []
    for name in options.only or COURSES:
        for seed in range(QUICK_SEEDS if options.quick else SEEDS):
            print(f"{name}, seed {seed} ...", file=sys.stderr, flush=True)
            points += _attend(name, seed, QUICK_COUNTS if options.quick else COUNTS)
    print(curve_report.text(where, points))
    curve_report.write(where, points, folder)
    if options.docs:
        curve_report.write_docs(where, points)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.curves",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=list(COURSES), help="data sets; all by default")
    parser.add_argument("--quick", action="store_true", help="one seed, fewer annotations")
    parser.add_argument("--out", type=Path, default=FOLDER, help=f"folder for what is written; {FOLDER}")
    parser.add_argument("--docs", action="store_true", help="put table, JSON and picture into docs/ as well")
    return parser.parse_args()


def _attend(name: str, seed: int, counts: Sequence[int]) -> list[Point]:
    course = COURSES[name]()
    with TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), models=dict(course.models), seed=seed, precision="float32")
        services = Services.open(settings)
        try:
            taught = _open(services, course, seed, Path(folder))
            ways = ((LORABEL, _lorabel), (SCRATCH, _from_scratch), (REGRESSION, _regression))
            return [
                Point(name, way, seed, count, accuracy, seconds)
                for way, learn in ways
                for count, accuracy, seconds in learn(taught, counts)
            ]
        finally:
            services.close()


def _open(services: Services, course: Course, seed: int, folder: Path) -> Class:
    bound = bind(course.label_config)
    family = services.family(family_for(bound.bindings[0].model_input(course.tasks[0][0])))
    taught = Class(services, course, bound, family, course.shuffled(seed), (), seed, folder)
    settings = services.settings.model_copy(update={"held_out_percent": 0})
    annotations = _annotations(course.test, 0, len(course.test))
    plan = examples.make_plan(bound.bindings[0], bound.config, annotations, settings, seed)
    test, _ = examples.prepare(plan.train, family, _as_it_is, services.fetcher.fetch)
    return Class(services, course, bound, family, taught.known, test, seed, folder)


def _lorabel(taught: Class, counts: Sequence[int]) -> Iterator[tuple[int, float, float]]:
    live: Path | None = None
    for before, count in zip((0, *counts), counts, strict=False):
        seconds = 0.0
        if count:
            made, is_accepted, seconds = _run(taught, count, before, live, f"live-{count}")
            live = made if is_accepted else live
        yield count, _score(taught, live), seconds


def _from_scratch(taught: Class, counts: Sequence[int]) -> Iterator[tuple[int, float, float]]:
    for count in counts:
        made, seconds = None, 0.0
        if count:
            made, _, seconds = _run(taught, count, 0, None, f"scratch-{count}")
        yield count, _score(taught, made), seconds


def _run(taught: Class, count: int, old: int, live: Path | None, name: str) -> tuple[Path, bool, float]:
    """What a training worker does with the first `count` annotations, of which `old` were in earlier runs.

    Returns the adapter's folder, whether it would be live, and the seconds that it took.
    """
    services, began = taught.services, time.monotonic()
    annotations = _annotations(taught.known, old, count)
    plan = examples.make_plan(taught.problem, taught.bound.config, annotations, services.settings, taught.seed + count)
    folder = taught.folder / name
    context = TrainingContext(live, _as_it_is, name)
    made = make_candidate(
        services, taught.problem, taught.family, plan, context, taught.recipe, folder, lambda progress: None
    )
    if made is None:
        raise RuntimeError(f"{taught.course.name}: nothing could be learned from {count} annotations")
    return folder, made.judgement.is_accepted, time.monotonic() - began


def _score(taught: Class, adapter: Path | None) -> float:
    """Accuracy on the test tasks."""
    question = taught.test[0].training_example.question
    with lora.adapted(taught.family, question, adapter, taught.recipe) as model:
        tests = lora.precompute(taught.family, model, taught.test, taught.recipe)
        with lora.with_live(model):
            metrics = evaluate.score(taught.problem, taught.family, tests, taught.services.settings.max_batch)
    return float(metrics.values["accuracy"])


def _regression(taught: Class, counts: Sequence[int]) -> Iterator[tuple[int, float, float]]:
    test = _features(taught, taught.test)
    truth = [example.target.indices[0] for example in taught.test]
    settings = taught.services.settings.model_copy(update={"held_out_percent": 0})
    for count in counts:
        if not count:
            continue
        began = time.monotonic()
        annotations = _annotations(taught.known, 0, count)
        plan = examples.make_plan(taught.problem, taught.bound.config, annotations, settings, taught.seed)
        train, _ = examples.prepare(plan.train, taught.family, _as_it_is, taught.services.fetcher.fetch)
        labels = [example.target.indices[0] for example in train]
        model = LogisticRegression(max_iter=2000).fit(_features(taught, train).numpy(), labels)
        yield count, float(model.score(test.numpy(), truth)), time.monotonic() - began


def _features(taught: Class, some: Sequence[examples.PreparedExample]) -> torch.Tensor:
    """(examples, dim) of the base model: what no adapter changes is computed beforehand, and here that is all."""
    made = taught.family.precompute([example.model_input for example in some], (), torch.Generator())
    return torch.stack([example.contents[0].features[0] for example in made])


def _annotations(known: Sequence[Known], old: int, count: int) -> list[Annotation]:
    return [
        Annotation(
            id=number,
            project_id=1,
            task_id=number,
            task_data=data,
            result=[choices("label", "object", [label])],
            ground_truth=False,
            updated_at=BEGAN + timedelta(seconds=number),
            received_at=BEGAN + timedelta(seconds=number),
            run_id=1 if number <= old else None,
        )
        for number, (data, label) in enumerate(known[:count], 1)
    ]


def _as_it_is(media: MediaRef) -> MediaRef:
    return media


if __name__ == "__main__":
    sys.exit(main())
