"""Active learning: how many annotations each strategy needs for 90% of the final accuracy.

The final accuracy is that of 320 tasks in random order. A head is fitted on the base model's frozen features after
every ten annotations, as a project's is, and the open tasks are ordered anew with its probabilities, by the
functions that order a project's tasks. Accuracy is counted on tasks that nobody annotates: the held-out templates
of tickets, and of the other sets the half that a seed sets apart. The number is read from the mean curve of the
seeds; intervals are 95% of bootstrap samples of the seeds, the same samples for both strategies of a ratio.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from benchmarks import curve_features
from benchmarks.curve_courses import COURSES
from benchmarks.curve_features import Part
from benchmarks.plan import Plan
from benchmarks.rows import Goal, Row
from lorabel.curation.informative import typical_then_informative
from lorabel.curation.sampling import ascending, core_set
from lorabel.curation.strategy import Strategy
from lorabel.families.encoders.heads.fit_choices import fit_choices
from workers.services import Services

SETS, QUICK_SETS = ("digits", "packages", "textile", "tickets"), ("digits",)
SET_APART = frozenset({"tickets"})
SEEDS, QUICK_SEEDS = 10, 3
BATCH, LAST, FINAL = 10, 160, 320
PART_OF_FINAL, RATIO = 0.9, Goal("<=", 0.75)
SAMPLES, INTERVAL = 2000, (2.5, 97.5)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """Accuracies of one strategy, (seeds, batches), from 0 annotations on."""

    accuracies: Floats

    def crossing(self, target: float, seeds: NDArray[np.intp]) -> float:
        """The annotations after which the mean of some seeds reaches the target; LAST if they do not."""
        means = self.accuracies[seeds].mean(axis=0)
        above = np.flatnonzero(means >= target)
        if not len(above):
            return LAST
        if not above[0]:
            return 0.0
        low, high = means[above[0] - 1], means[above[0]]
        return float(BATCH * (above[0] - 1 + (target - low) / (high - low)))

    @property
    def means(self) -> Floats:
        """(seeds,): the mean accuracy from the first batch on."""
        return np.asarray(self.accuracies[:, 1:].mean(axis=1))


def measure(plan: Plan) -> list[Row]:
    rows = []
    for name in QUICK_SETS if plan.is_quick else SETS:
        parts = _parts(name, plan)
        rows += _compare(name, parts, QUICK_SEEDS if plan.is_quick else SEEDS)
    return rows


def _parts(name: str, plan: Plan) -> tuple[Part, Part]:
    course = COURSES[name]()
    with TemporaryDirectory() as folder:
        changes = {"models": dict(course.models), "data_dir": Path(folder)}
        services = Services.open(plan.settings.model_copy(update=changes))
        try:
            return curve_features.compute(services, course)
        finally:
            services.close()


def _compare(name: str, parts: tuple[Part, Part], seed_count: int) -> list[Row]:
    splits = [_split(name, parts, seed) for seed in range(seed_count)]
    finals = np.array([_accuracy(pool, range(min(FINAL, len(pool.classes))), test) for pool, test in splits])
    curves = {
        strategy: Curves(np.array([_curve(strategy, *split, seed) for seed, split in enumerate(splits)]))
        for strategy in Strategy
    }
    generator = np.random.default_rng(0)
    samples = [np.arange(seed_count), *generator.integers(0, seed_count, (SAMPLES, seed_count))]
    crossings = {
        strategy: np.array([some.crossing(PART_OF_FINAL * finals[seeds].mean(), seeds) for seeds in samples])
        for strategy, some in curves.items()
    }
    return [row for strategy in Strategy for row in _rows(name, strategy, curves, crossings)]


def _rows(
    name: str, strategy: Strategy, curves: Mapping[Strategy, Curves], crossings: Mapping[Strategy, Floats]
) -> list[Row]:
    reached, by_chance = crossings[strategy], crossings[Strategy.RANDOM]
    rows = [_interval_row(f"{name}, {strategy}", reached, "annotations", None, _curve_note(curves[strategy]))]
    if strategy == Strategy.RANDOM:
        return rows
    goal = RATIO if strategy == Strategy.AUTO and name not in SET_APART else None
    ratios = reached / np.maximum(by_chance, 1)
    random_means = curves[Strategy.RANDOM].means
    gain, spread = curves[strategy].means - random_means, float(random_means.std(ddof=1))
    return [
        *rows,
        _interval_row(f"{name}, {strategy} over random, annotations", ratios, "x", goal),
        Row(
            f"{name}, {strategy} minus random, mean accuracy up to {LAST}",
            float(gain.mean()),
            "",
            float(gain.min()),
            float(gain.max()),
            Goal(">=", round(-spread, 3)),
            "goal: random's spread (standard deviation) over the seeds",
        ),
    ]


def _interval_row(name: str, samples: Floats, unit: str, goal: Goal | None, note: str = "") -> Row:
    low, high = np.percentile(samples[1:], INTERVAL)
    return Row(name, float(samples[0]), unit, float(low), float(high), goal, note)


def _curve_note(curves: Curves) -> str:
    means = curves.accuracies.mean(axis=0)
    return ", ".join(f"{count}: {means[count // BATCH]:.2f}" for count in (20, 40, 80, LAST))


def _split(name: str, parts: tuple[Part, Part], seed: int) -> tuple[Part, Part]:
    """The tasks to annotate, in random order, and the test tasks."""
    pool, test = parts
    generator = np.random.default_rng(seed)
    if name in SET_APART:
        return pool[generator.permutation(len(pool.classes)).tolist()], test
    names = ("features", "zero_shot", "classes")
    every = Part(*(np.concatenate([getattr(pool, part), getattr(test, part)]) for part in names))
    order = generator.permutation(len(every.classes)).tolist()
    return every[order[::2]], every[order[1::2]]


def _curve(strategy: Strategy, pool: Part, test: Part, seed: int) -> list[float]:
    """The accuracy on the test tasks after each batch of annotations, the first after none."""
    annotated: list[int] = []
    accuracies = [_accuracy(pool, annotated, test)]
    while len(annotated) < LAST:
        open_tasks = np.setdiff1d(np.arange(len(pool.classes)), annotated)
        order = _order(strategy, pool, annotated, open_tasks, seed)
        annotated += open_tasks[order[:BATCH]].tolist()
        accuracies.append(_accuracy(pool, annotated, test))
    return accuracies


def _order(
    strategy: Strategy, pool: Part, annotated: Sequence[int], open_tasks: NDArray[np.intp], seed: int
) -> list[int]:
    """Positions in `open_tasks`, the first to be annotated first."""
    probabilities = _probabilities(pool, annotated, pool[open_tasks.tolist()])
    highest = np.sort(probabilities, axis=1)
    margins = (highest[:, -1] - highest[:, -2]).astype(np.float32)
    vectors, known = pool.features[open_tasks], pool.features[list(annotated)]
    match strategy:
        case Strategy.AUTO:
            return typical_then_informative(vectors, known, margins, pool.zero_shot.shape[1], seed)
        case Strategy.MARGIN:
            return ascending(margins.tolist())
        case Strategy.DIVERSITY:
            return core_set(vectors, known, max_picks=BATCH)
        case Strategy.RANDOM:
            return list(range(len(open_tasks)))


def _accuracy(pool: Part, annotated: Sequence[int], test: Part) -> float:
    return float((_probabilities(pool, annotated, test).argmax(axis=1) == test.classes).mean())


def _probabilities(pool: Part, annotated: Sequence[int], asked: Part) -> Floats:
    """(tasks, labels): what a head says that is fitted on the annotated tasks; before that, the base model."""
    some = pool[annotated]
    label_count = some.zero_shot.shape[1]
    shares = np.eye(label_count, dtype=np.float32)[some.classes]
    head = fit_choices(some.features, some.zero_shot, shares) if len(annotated) else None
    zero_shot = softmax(asked.zero_shot.astype(np.float64), axis=1)
    if head is None:
        return np.asarray(zero_shot)
    logits = head.logits(asked.features, asked.zero_shot).astype(np.float64)
    learned = softmax(np.where(head.is_learned, logits, -np.inf), axis=1)
    kept = np.where(head.is_learned, 0.0, zero_shot)
    return np.asarray(kept + learned * (1 - kept.sum(axis=1, keepdims=True)))
