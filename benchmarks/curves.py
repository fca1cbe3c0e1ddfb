"""Learning curves: the accuracy of the predictions after 0 to 160 annotations.

    python -m benchmarks.curves --quick           one seed, fewer annotations
    python -m benchmarks.curves --docs            table, JSON and picture into docs/ as well

Each way to learn is scored on the same test tasks, which are never annotated:

- Lorabel: a run after each batch of annotations, which starts from the live adapter and learns from the new
  annotations and a bounded replay of old ones. Its adapter becomes live only if it is not worse on the fifth of
  the annotated tasks that is held out.
- from scratch: a new adapter from all annotations each time, which costs more with every annotation.
- logistic regression (scikit-learn) on the base model's frozen features, from all annotations.

Without annotations the first two are the base model alone, and the third has no figure.
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
from benchmarks.curve_courses import COURSES, Course, LabeledTask
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
from workers.attempt import TrainingContext
from workers.candidate import make_candidate
from workers.services import Services

COUNTS, QUICK_COUNTS = (0, 10, 20, 40, 80, 160), (0, 10, 40)
SEEDS, QUICK_SEEDS = 3, 1
FOLDER = Path("build/curves")
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Subject:
    """One data set with one seed, with what each way to learn needs.

    Args:
        labeled_tasks: the tasks in the order in which they are annotated.
        test: the test tasks, prepared for the family.
        folder: for the adapters.
    """

    services: Services
    course: Course
    bound: BoundConfig
    family: Family
    labeled_tasks: Sequence[LabeledTask]
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
    described = machine.describe(Settings(precision="float32"))
    points: list[Point] = []
    for name in options.only or COURSES:
        for seed in range(QUICK_SEEDS if options.quick else SEEDS):
            print(f"{name}, seed {seed} ...", file=sys.stderr, flush=True)
            points += _measure(name, seed, QUICK_COUNTS if options.quick else COUNTS)
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
    parser.add_argument("--only", nargs="+", choices=list(COURSES), help="data sets; all by default")
    parser.add_argument("--quick", action="store_true", help="one seed, fewer annotations")
    parser.add_argument("--out", type=Path, default=FOLDER, help=f"folder for what is written; {FOLDER}")
    parser.add_argument("--docs", action="store_true", help="put table, JSON and picture into docs/ as well")
    return parser.parse_args()


def _measure(name: str, seed: int, counts: Sequence[int]) -> list[Point]:
    course = COURSES[name]()
    with TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), models=dict(course.models), seed=seed, precision="float32")
        services = Services.open(settings)
        try:
            subject = _make_subject(services, course, seed, Path(folder))
            ways = ((LORABEL, _lorabel), (SCRATCH, _from_scratch), (REGRESSION, _regression))
            return [
                Point(name, way, seed, count, accuracy, seconds)
                for way, learn in ways
                for count, accuracy, seconds in learn(subject, counts)
            ]
        finally:
            services.close()


def _make_subject(services: Services, course: Course, seed: int, folder: Path) -> Subject:
    bound = bind(course.label_config)
    family = services.family(family_for(bound.bindings[0].model_input(course.tasks[0][0])))
    settings = services.settings.model_copy(update={"held_out_percent": 0})
    annotations = _annotations(course.test, 0, len(course.test))
    plan = examples.make_plan(bound.bindings[0], bound.config, annotations, settings, seed)
    test, _ = examples.prepare(plan.train, family, _unchanged, services.fetcher.fetch)
    return Subject(services, course, bound, family, course.shuffled(seed), test, seed, folder)


def _lorabel(subject: Subject, counts: Sequence[int]) -> Iterator[tuple[int, float, float]]:
    """For each number of annotations: that number, the accuracy, and the seconds of the last run."""
    live: Path | None = None
    for before, count in zip((0, *counts), counts, strict=False):
        seconds = 0.0
        if count:
            adapter, is_accepted, seconds = _train(subject, count, before, live, f"live-{count}")
            live = adapter if is_accepted else live
        yield count, _score(subject, live), seconds


def _from_scratch(subject: Subject, counts: Sequence[int]) -> Iterator[tuple[int, float, float]]:
    for count in counts:
        adapter, seconds = None, 0.0
        if count:
            adapter, _, seconds = _train(subject, count, 0, None, f"scratch-{count}")
        yield count, _score(subject, adapter), seconds


def _train(subject: Subject, count: int, old: int, live: Path | None, name: str) -> tuple[Path, bool, float]:
    """Do what a training worker does with the first `count` annotations, of which `old` were in earlier runs.

    Returns:
        The adapter's folder, whether the adapter is accepted, and the seconds that the run took.
    """
    services, began = subject.services, time.monotonic()
    annotations = _annotations(subject.labeled_tasks, old, count)
    seed = subject.seed + count
    plan = examples.make_plan(subject.problem, subject.bound.config, annotations, services.settings, seed)
    folder = subject.folder / name
    context = TrainingContext(live, _unchanged)
    attempt = make_candidate(
        services, subject.problem, subject.family, plan, context, subject.recipe, folder, lambda progress: None
    )
    if attempt.candidate is None:
        raise RuntimeError(f"{subject.course.name}: nothing could be learned from {count} annotations")
    return folder, attempt.candidate.judgement.is_accepted, time.monotonic() - began


def _score(subject: Subject, adapter: Path | None) -> float:
    """The accuracy on the test tasks with an adapter, or with the base model alone."""
    question = subject.test[0].training_example.question
    with lora.adapted(subject.family, question, adapter, subject.recipe) as model:
        test = lora.precompute(subject.family, model, subject.test, None)
        with lora.with_live(model):
            metrics = evaluate.score(subject.problem, subject.family, test, subject.services.settings.max_batch)
    return float(metrics.values["accuracy"])


def _regression(subject: Subject, counts: Sequence[int]) -> Iterator[tuple[int, float, float]]:
    """As `_lorabel`, but without a figure for 0 annotations."""
    test_features = _features(subject, subject.test)
    test_labels = [example.target.indices[0] for example in subject.test]
    settings = subject.services.settings.model_copy(update={"held_out_percent": 0})
    for count in counts:
        if not count:
            continue
        began = time.monotonic()
        annotations = _annotations(subject.labeled_tasks, 0, count)
        plan = examples.make_plan(subject.problem, subject.bound.config, annotations, settings, subject.seed)
        train, _ = examples.prepare(plan.train, subject.family, _unchanged, subject.services.fetcher.fetch)
        labels = [example.target.indices[0] for example in train]
        model = LogisticRegression(max_iter=2000).fit(_features(subject, train).numpy(), labels)
        yield count, float(model.score(test_features.numpy(), test_labels)), time.monotonic() - began


def _features(subject: Subject, batch: Sequence[examples.PreparedExample]) -> torch.Tensor:
    """The base model's features, (examples, dim).

    `precompute` computes whatever no adapter can change; with no trained layers these are the features.
    """
    inputs = subject.family.precompute([example.model_input for example in batch], (), torch.Generator())
    return torch.stack([model_input.contents[0].features[0] for model_input in inputs])


def _annotations(labeled_tasks: Sequence[LabeledTask], old: int, count: int) -> list[Annotation]:
    """The first `count` tasks as annotations, of which the first `old` were in an earlier run."""
    return [
        Annotation(
            id=number,
            project_id=1,
            task_id=number,
            task_data=data,
            result=[choices("label", "object", [label])],
            ground_truth=False,
            updated_at=START + timedelta(seconds=number),
            received_at=START + timedelta(seconds=number),
            run_id=1 if number <= old else None,
        )
        for number, (data, label) in enumerate(labeled_tasks[:count], 1)
    ]


def _unchanged(media: MediaRef) -> MediaRef:
    return media


if __name__ == "__main__":
    sys.exit(main())
