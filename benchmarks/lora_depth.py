"""What a LoRA run beside a fitted head gives, on tasks that nobody annotated.

    python -m benchmarks.lora_depth                      all sets, 80 to 320 annotations, three seeds
    python -m benchmarks.lora_depth --only digits --counts 80 --seeds 1 --first-seed 2

The sets are those of `benchmarks.curves` with labels: single and multiple choice, and taxonomies. For each set,
number of annotations and seed: how right the head alone is, fitted on the base model's features, by the metric
that decides about promotion (of a single choice the accuracy); and the same after a run. The run trains LoRA on
the towers that read the contents, fits the head on both features, and keeps the adapter only if cross-validation
says so (`workers/beside_head.py`). A run that is not accepted leaves the head alone. The test tasks take no part
in either.

Figures are added to those of earlier calls in build/lora_depth/lora_depth.json. The table is about all of them.
"""

import argparse
import json
import logging
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import cast

import numpy as np
import torch

from benchmarks.annotated_courses import annotations_of, chosen, unchanged
from benchmarks.curve_courses import COURSES, Course
from benchmarks.kind_courses import KIND_COURSES, KindCourse
from lorabel.contracts import LabelScores
from lorabel.families.base import Family
from lorabel.families.encoders.heads.fit import fit_head
from lorabel.families.encoders.heads.head_answers import answer_with_head
from lorabel.families.loading import family_for
from lorabel.problems.binding import BoundConfig, bind
from lorabel.settings import Settings
from tests.e2e.courses import LabeledTask
from workers import evaluate, examples, lora
from workers.acceptance import log_losses
from workers.attempt import TrainingContext
from workers.beside_head import recipe_for, to_fit
from workers.candidate import make_candidate
from workers.services import Services

COUNTS = (80, 160, 320)
SEEDS = 3
# The data sets of other kinds than single choice for whose questions runs beside a head train an adapter.
KINDS = ("several", "tags", "cabinet", "archive", "match")
FIGURES = Path("build/lora_depth/lora_depth.json")


@dataclass(frozen=True)
class Figure:
    """One run.

    Args:
        alone: the primary metric of the head alone.
        after: the primary metric of what answers after the run.
        loss_alone: log-loss of the head alone.
        loss_after: log-loss of what answers after the run.
        seconds: of CPU, of the run.
    """

    name: str
    annotations: int
    seed: int
    alone: float
    after: float
    loss_alone: float
    loss_after: float
    is_accepted: bool
    decision: str
    seconds: float


@dataclass(frozen=True)
class DataSet:
    """A data set, whatever its kind.

    Args:
        models: takes an empty folder; returns the base models by family, as in the settings.
        order: takes a seed; returns indices of the tasks, in the order in which they are annotated.
        test: never annotated.
    """

    name: str
    label_config: str
    models: Callable[[Path], Mapping[str, str]]
    order: Callable[[int], Sequence[int]]
    tasks: Sequence[LabeledTask]
    test: Sequence[LabeledTask]

    @classmethod
    def of(cls, course: Course | KindCourse) -> "DataSet":
        if isinstance(course, KindCourse):
            return cls(course.name, course.label_config, course.models, course.order, course.tasks, course.test)
        models, tasks, test = course.models, chosen(course.tasks), chosen(course.test)
        return cls(course.name, course.label_config, lambda _: models, course.order, tasks, test)


SETS: Mapping[str, Callable[[], Course | KindCourse]] = MappingProxyType(
    {**COURSES, **{name: KIND_COURSES[name] for name in KINDS}}
)


@dataclass(frozen=True)
class Subject:
    """A data set with the base model that answers it.

    Args:
        test: the test tasks, prepared for the family.
    """

    services: Services
    data_set: DataSet
    bound: BoundConfig
    family: Family
    test: Sequence[examples.PreparedExample]


def main() -> int:
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s %(message)s")
    options = _parse()
    torch.set_num_threads(options.threads)
    for name in options.only:
        with TemporaryDirectory() as folder:
            data_set = DataSet.of(SETS[name]())
            models = dict(data_set.models(Path(folder) / "model"))
            settings = Settings(data_dir=Path(folder), models=models, precision="float32")
            services = Services.open(settings)
            try:
                subject = make_subject(services, data_set)
                for count in options.counts:
                    for seed in range(options.first_seed, options.first_seed + options.seeds):
                        _add(_measure(subject, count, seed, Path(folder)))
            finally:
                services.close()
    print(text(_measured()))
    return 0


def _measured() -> list[Figure]:
    """The figures of this and earlier calls."""
    return [Figure(**figure) for figure in json.loads(FIGURES.read_text())] if FIGURES.exists() else []


def _add(figure: Figure) -> None:
    """Write the figure in place of an earlier one of the same run."""
    run = figure.name, figure.annotations, figure.seed
    others = [other for other in _measured() if (other.name, other.annotations, other.seed) != run]
    figures = sorted([*others, figure], key=lambda other: (other.name, other.annotations, other.seed))
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    FIGURES.write_text(json.dumps([asdict(each) for each in figures], indent=1))


def text(figures: Sequence[Figure]) -> str:
    """A table in Markdown: for each set and number of annotations the median over the seeds, and the worst run."""
    cells: dict[tuple[str, int], list[Figure]] = defaultdict(list)
    for figure in figures:
        cells[figure.name, figure.annotations].append(figure)
    lines = [
        "| set | annotations | head alone | after a run | log-loss | accepted | worst run | CPU seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (name, annotations), runs in cells.items():
        median = {
            field: statistics.median(getattr(run, field) for run in runs)
            for field in ("alone", "after", "loss_alone", "loss_after", "seconds")
        }
        accepted = sum(run.is_accepted for run in runs)
        worst = min(run.after - run.alone for run in runs)
        lines.append(
            f"| {name} | {annotations} | {median['alone']:.3f} | {median['after']:.3f} "
            f"| {median['loss_alone']:.2f}, {median['loss_after']:.2f} | {accepted} of {len(runs)} "
            f"| {worst:+.3f} | {median['seconds']:.0f} |"
        )
    return "\n".join(lines)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lora_depth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=list(SETS), default=list(SETS), help="data sets")
    parser.add_argument("--counts", nargs="+", type=int, default=COUNTS, help="numbers of annotations")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def make_subject(services: Services, data_set: DataSet) -> Subject:
    bound = bind(data_set.label_config)
    family = services.family(family_for(bound.bindings[0].model_input(data_set.tasks[0][0])))
    annotations = annotations_of(data_set.test)
    to_prepare, _ = examples.make_examples(bound.bindings[0], bound.config, annotations, services.settings)
    test, _ = examples.prepare(to_prepare, family, unchanged, services.fetcher.fetch)
    return Subject(services, data_set, bound, family, test)


def _measure(subject: Subject, count: int, seed: int, scratch: Path) -> Figure:
    services, problem, family = subject.services, subject.bound.bindings[0], subject.family
    data_set = subject.data_set
    annotations = annotations_of(data_set.tasks[index] for index in data_set.order(seed)[:count])
    plan = examples.make_plan(problem, subject.bound.config, annotations, services.settings, seed)
    learned = [*plan.train, *plan.held_out]
    recipe = lora.Recipe.from_settings(services.settings.model_copy(update={"seed": seed}), "float32")
    recipe = recipe_for(family, learned[0].question, recipe, services.settings)
    began = time.process_time()
    folder = scratch / f"{count}-{seed}"
    attempt = make_candidate(
        services, problem, family, plan, TrainingContext(None, unchanged), recipe, folder, lambda _: None
    )
    seconds = time.process_time() - began
    alone, loss_alone = score(subject, learned, None, recipe)
    after, loss_after = alone, loss_alone
    if attempt.candidate is not None:
        after, loss_after = score(subject, learned, folder, recipe)
    decision = attempt.decision if attempt.judgement is None else attempt.judgement.decision
    is_accepted = attempt.candidate is not None
    figures = alone, after, loss_alone, loss_after
    figure = Figure(data_set.name, count, seed, *figures, is_accepted, decision, seconds)
    print(figure, file=sys.stderr, flush=True)
    return figure


def score(
    subject: Subject, learned: Sequence[examples.TrainingExample], adapter: Path | None, recipe: lora.Recipe
) -> tuple[float, float]:
    """The primary metric and the log-loss on the test tasks, of a head that is fitted on the learned ones."""
    services, problem, family = subject.services, subject.bound.bindings[0], subject.family
    batch = services.settings.max_batch
    train, _ = examples.prepare(learned, family, unchanged, services.fetcher.fetch)
    with lora.adapted(family, learned[0].question, adapter, recipe) as model:
        with model.disable_adapter():
            zero_shot = cast(list[LabelScores], evaluate.predict(family, subject.test, batch))
        with lora.with_live(model, adapter):
            train_features = evaluate.features(family, train, batch)
            test_features = evaluate.features(family, subject.test, batch)
    head = fit_head(to_fit(train, train_features), train_features[0].space)
    outputs = [
        answer
        if head is None
        else answer_with_head(head, test.question, test.features, test.logits, answer.temperature)
        for test, answer in zip(to_fit(subject.test, test_features), zero_shot, strict=True)
    ]
    targets = [example.target for example in subject.test]
    metrics = problem.metrics(targets, outputs)
    return float(metrics.values[metrics.primary]), float(np.mean(log_losses(problem, targets, outputs)))


if __name__ == "__main__":
    sys.exit(main())
