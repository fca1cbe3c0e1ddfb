"""How a figure grows with the number of annotations, and how many are likely needed for a figure that is wanted.

The error of models falls like a power of the number of examples, down to a floor that more examples do not lower
(Hestness et al., https://arxiv.org/abs/1712.00409):

    error(n) = floor + factor * n ** -power

A handful of versions does not tell where the floor is. So the curve is fitted many times: each time to other
versions (bootstrap), with measurements drawn anew, and with a floor drawn at random from those with which the
curve goes through the versions. What the fits disagree about is the band. In simulations, the band of 80% has the
truth in it in 80% of the projects and more, four times beyond the last version
(`tests/lorabel/evaluation/test_learning_curve.py`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FITS = 400
FEWEST_VERSIONS, FEWEST_COUNTS = 4, 3
# The largest number of annotations is at least so many times the smallest.
LEAST_GROWTH = 2.0
# The floor is less than this part of the smallest error, and low floors are likelier: a half is below an eighth of
# that. Of so many floors, each fit has one of those that agree with the versions.
MOST_FLOOR, LOW_FLOORS, FLOORS = 0.9, 3, 8
# So many times the annotations that are there, no curve is believed.
FARTHEST = 20.0
# The band has 80% of the fits, and the curve itself is their median.
LOW, HIGH = 0.1, 0.9
SEED = 0


class Measured(NamedTuple):
    """A version's figure in [0, 1], measured on `tasks` tasks after it learned from `annotations` annotations."""

    annotations: int
    value: float
    tasks: int


class Expected(NamedTuple):
    """The figure that is expected with `annotations` annotations, and the ends of its band."""

    annotations: float
    low: float
    value: float
    high: float


@dataclass(frozen=True)
class Needed:
    """How many annotations in all a figure likely needs.

    Attributes:
        likely: by half of the fits; None if these do not reach the figure within FARTHEST times what is there.
        low, high: by 10% and by 90% of the fits; None likewise.
    """

    low: int | None
    likely: int | None
    high: int | None


@dataclass(frozen=True)
class LearningCurve:
    """Fits of the curve; each array (fits,). `most`: the largest number of annotations that was measured."""

    floors: Floats
    factors: Floats
    powers: Floats
    most: int

    def expected(self, annotations: Sequence[float]) -> list[Expected]:
        """The curve and its band at these numbers of annotations."""
        counts = np.asarray(annotations, np.float64)[:, None]
        values = np.clip(1 - self.floors - self.factors * counts**-self.powers, 0, 1)
        rows = np.quantile(values, (LOW, 0.5, HIGH), axis=1).T
        return [Expected(count, *map(float, row)) for count, row in zip(annotations, rows, strict=True)]

    def needed(self, figure: float) -> Needed:
        """How many annotations a figure in (0, 1) needs."""
        above_floor = 1 - figure - self.floors
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            counts = (self.factors / above_floor) ** (1 / self.powers)
        reached = np.where((above_floor > 0) & (self.powers > 0), counts, np.inf)
        return Needed(*(self._believed(float(count)) for count in _quantiles(reached)))

    def _believed(self, count: float) -> int | None:
        return None if count > FARTHEST * self.most else max(1, math.ceil(count))


def fit(measured: Sequence[Measured]) -> LearningCurve | str:
    """Fit the curve to a project's versions; or why that cannot be done, in a sentence.

    Args:
        measured: in any order, all with the same metric.
    """
    usable = [version for version in measured if version.annotations > 0 and version.tasks > 0]
    counts = {version.annotations for version in usable}
    if len(usable) < FEWEST_VERSIONS or len(counts) < FEWEST_COUNTS:
        return (
            f"it needs {FEWEST_VERSIONS} measured versions that learned from {FEWEST_COUNTS} different numbers of "
            f"annotations; there are {len(usable)} with {len(counts)}"
        )
    if max(counts) < LEAST_GROWTH * min(counts):
        return (
            f"the versions learned from {min(counts)} to {max(counts)} annotations; the largest number must be "
            f"{LEAST_GROWTH:.0f} times the smallest"
        )
    curve = _fit(usable, np.random.default_rng(SEED))
    if np.mean(curve.powers > 0) < HIGH:
        return "the figure does not clearly rise with the number of annotations so far"
    return curve


def _fit(measured: Sequence[Measured], draw: np.random.Generator) -> LearningCurve:
    """FITS curves; arrays are (fits, versions) where nothing else is said."""
    all_counts = np.array([version.annotations for version in measured], np.float64)
    chosen = draw.integers(len(measured), size=(FITS, len(measured)))
    # No curve goes through versions with a single number of annotations: these draws are all versions.
    chosen[np.ptp(all_counts[chosen], axis=1) == 0] = np.arange(len(measured))
    tasks = np.array([version.tasks for version in measured])[chosen]
    shares = np.array([1 - version.value for version in measured])[chosen]
    # An error of 0 of 50 tasks is less than one of them, and not nothing.
    errors = np.maximum(draw.binomial(tasks, shares) / tasks, 0.5 / tasks)
    # (FLOORS, fits)
    floors = MOST_FLOOR * errors.min(axis=1) * draw.random((FLOORS, FITS)) ** LOW_FLOORS
    lines = [_line(all_counts[chosen], tasks, errors, floor) for floor in floors]
    misfits = np.stack([line.misfit for line in lines])
    # Versions scatter more than their measurements do, so misfits are taken relative to the best.
    scatter = np.maximum(1, misfits.min(axis=0) / max(1, len(measured) - 2))
    best = np.argmax(draw.gumbel(size=misfits.shape) - misfits / scatter / 2, axis=0)
    each = np.arange(FITS)
    return LearningCurve(
        floors[best, each],
        np.stack([line.factor for line in lines])[best, each],
        np.stack([line.power for line in lines])[best, each],
        int(all_counts.max()),
    )


class _Line(NamedTuple):
    """A straight line through the logarithms, for each fit; arrays (fits,). `misfit`: chi squared."""

    factor: Floats
    power: Floats
    misfit: Floats


def _line(counts: Floats, tasks: NDArray[np.int64], errors: Floats, floor: Floats) -> _Line:
    """Least squares of logarithms, whose variance is that of the error divided by its square."""
    above = errors - floor[:, None]
    weights = tasks * above**2 / np.maximum(errors * (1 - errors), 0.5 / tasks)
    across, heights = np.log(counts), np.log(above)
    sums = weights.sum(axis=1)
    middle_across, middle_height = (weights * across).sum(axis=1) / sums, (weights * heights).sum(axis=1) / sums
    offsets = across - middle_across[:, None]
    slopes = (weights * offsets * heights).sum(axis=1) / (weights * offsets**2).sum(axis=1)
    residuals = heights - middle_height[:, None] - slopes[:, None] * offsets
    misfit = (weights * residuals**2).sum(axis=1)
    return _Line(np.exp(middle_height - slopes * middle_across), -slopes, misfit)


def _quantiles(values: Floats) -> list[float]:
    """The quantiles LOW, 0.5 and HIGH of values that may be infinite, each as one of the values."""
    ordered = np.sort(values)
    return [float(ordered[math.ceil(share * len(ordered)) - 1]) for share in (LOW, 0.5, HIGH)]
