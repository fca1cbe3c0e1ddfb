"""Active learning: how many annotations each strategy needs for 90% of the final accuracy.

The final accuracy is that of 320 tasks in random order. A head is fitted on the base model's frozen features after
every ten annotations, as a project's is, and the open tasks are ordered anew with its probabilities, by the
functions that order a project's tasks. Accuracy is counted on tasks that nobody annotates: the held-out templates
of tickets, and of the other sets the half that a seed sets apart. The number is read from the mean curve of the
seeds; intervals are 95% of bootstrap samples of the seeds, the same samples for both strategies of a ratio. A
logistic regression on scaled features is the other learner: what helps only one way to learn is no good order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

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
Ask = Callable[[Part], Floats]
"""(tasks, labels): the probabilities of some tasks."""
Learn = Callable[[Part], Ask]
"""Learns from annotated tasks, which may be none."""


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
        for learner, learn in LEARNERS.items():
            rows += _compare(f"{name}, {learner}", parts, learn, QUICK_SEEDS if plan.is_quick else SEEDS)
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


def _compare(name: str, parts: tuple[Part, Part], learn: Learn, seed_count: int) -> list[Row]:
    is_set_apart = name.split(",")[0] in SET_APART
    splits = [_split(parts, seed, is_set_apart) for seed in range(seed_count)]
    last = min(FINAL, *(len(pool.classes) for pool, _ in splits))
    finals = np.array([_accuracy(learn(pool[range(last)]), test) for pool, test in splits])
    curves = {
        strategy: Curves(np.array([_curve(strategy, learn, *split, seed) for seed, split in enumerate(splits)]))
        for strategy in Strategy
    }
    generator = np.random.default_rng(0)
    samples = [np.arange(seed_count), *generator.integers(0, seed_count, (SAMPLES, seed_count))]
    crossings = {
        strategy: np.array([some.crossing(PART_OF_FINAL * finals[seeds].mean(), seeds) for seeds in samples])
        for strategy, some in curves.items()
    }
    ratio = None if is_set_apart else RATIO
    return [row for strategy in Strategy for row in _rows(name, strategy, curves, crossings, ratio)]


def _rows(
    name: str,
    strategy: Strategy,
    curves: Mapping[Strategy, Curves],
    crossings: Mapping[Strategy, Floats],
    ratio: Goal | None,
) -> list[Row]:
    """Args: `ratio`: the goal of `auto`, as annotations over those of random order."""
    reached, by_chance = crossings[strategy], crossings[Strategy.RANDOM]
    rows = [_interval_row(f"{name}, {strategy}", reached, "annotations", None, _curve_note(curves[strategy]))]
    if strategy == Strategy.RANDOM:
        return rows
    goal = ratio if strategy == Strategy.AUTO else None
    random_means = curves[Strategy.RANDOM].means
    gain, spread = curves[strategy].means - random_means, float(random_means.std(ddof=1))
    return [
        *rows,
        _interval_row(f"{name}, {strategy} over random", reached / np.maximum(by_chance, 1), "x", goal),
        Row(
            f"{name}, {strategy} minus random, mean accuracy up to {LAST}",
            float(gain.mean()),
            "",
            float(gain.min()),
            float(gain.max()),
            Goal(">=", -round(spread, 3)),
            "goal: random's spread, the standard deviation over the seeds",
        ),
    ]


def _interval_row(name: str, samples: Floats, unit: str, goal: Goal | None, note: str = "") -> Row:
    low, high = np.percentile(samples[1:], INTERVAL)
    return Row(name, float(samples[0]), unit, float(low), float(high), goal, note)


def _curve_note(curves: Curves) -> str:
    means = curves.accuracies.mean(axis=0)
    return ", ".join(f"{count}: {means[count // BATCH]:.2f}" for count in (20, 40, 80, LAST))


def _split(parts: tuple[Part, Part], seed: int, is_set_apart: bool) -> tuple[Part, Part]:
    """The tasks to annotate, in random order, and the test tasks."""
    pool, test = parts
    generator = np.random.default_rng(seed)
    if is_set_apart:
        return pool[generator.permutation(len(pool.classes)).tolist()], test
    names = ("features", "zero_shot", "classes")
    every = Part(*(np.concatenate([getattr(pool, part), getattr(test, part)]) for part in names))
    order = generator.permutation(len(every.classes)).tolist()
    return every[order[::2]], every[order[1::2]]


def _curve(strategy: Strategy, learn: Learn, pool: Part, test: Part, seed: int) -> list[float]:
    """The accuracy on the test tasks after each batch of annotations, the first after none."""
    annotated: list[int] = []
    accuracies = []
    while True:
        ask = learn(pool[annotated])
        accuracies.append(_accuracy(ask, test))
        if len(annotated) == LAST:
            return accuracies
        open_tasks = np.setdiff1d(np.arange(len(pool.classes)), annotated)
        order = _order(strategy, ask(pool[open_tasks.tolist()]), pool, annotated, open_tasks, seed)
        annotated += open_tasks[order[:BATCH]].tolist()


def _order(
    strategy: Strategy,
    probabilities: Floats,
    pool: Part,
    annotated: Sequence[int],
    open_tasks: NDArray[np.intp],
    seed: int,
) -> list[int]:
    """Positions in `open_tasks`, the first to be annotated first."""
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


def _accuracy(ask: Ask, test: Part) -> float:
    return float((ask(test).argmax(axis=1) == test.classes).mean())


def _learn_head(annotated: Part) -> Ask:
    """The head of a project; the base model where there is none."""
    label_count = annotated.zero_shot.shape[1]
    shares = np.eye(label_count, dtype=np.float32)[annotated.classes]
    head = fit_choices(annotated.features, annotated.zero_shot, shares) if len(shares) else None

    def ask(tasks: Part) -> Floats:
        zero_shot = softmax(tasks.zero_shot.astype(np.float64), axis=1)
        if head is None:
            return np.asarray(zero_shot)
        logits = head.logits(tasks.features, tasks.zero_shot).astype(np.float64)
        learned = softmax(np.where(head.is_learned, logits, -np.inf), axis=1)
        kept = np.where(head.is_learned, 0.0, zero_shot)
        return np.asarray(kept + learned * (1 - kept.sum(axis=1, keepdims=True)))

    return ask


def _learn_regression(annotated: Part) -> Ask:
    """scikit-learn's logistic regression on scaled features; equal probabilities before there are two labels."""
    label_count, seen = annotated.zero_shot.shape[1], np.unique(annotated.classes)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    if len(seen) > 1:
        model.fit(annotated.features, annotated.classes)

    def ask(tasks: Part) -> Floats:
        probabilities = np.full((len(tasks.features), label_count), 1 / label_count)
        if len(seen) > 1:
            probabilities[:] = 0.0
            probabilities[:, seen] = model.predict_proba(tasks.features)
        return probabilities

    return ask


LEARNERS: Mapping[str, Learn] = MappingProxyType({"head": _learn_head, "regression": _learn_regression})
