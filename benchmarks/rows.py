"""A figure that was measured, its spread, its goal, and whether the goal was reached. Nothing here measures."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Goal:
    """What a figure should be: `Goal(">=", 0.9)`."""

    comparison: Literal[">=", "<="]
    limit: float

    def is_met_by(self, value: float) -> bool:
        return value >= self.limit if self.comparison == ">=" else value <= self.limit

    def margin(self, value: float) -> float:
        """How many times the goal was reached: above 1 it is met, whichever way it is compared."""
        above, below = (value, self.limit) if self.comparison == ">=" else (self.limit, value)
        return above / below if below > 0 else float("inf")


@dataclass(frozen=True)
class Row:
    """`value` is the median of the repetitions, or the only figure; `low` and `high` are the lowest and the
    highest repetition. `note` says what a reader must know to judge it."""

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    goal: Goal | None = None
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """None where there is no goal."""
        return None if self.goal is None else self.goal.is_met_by(self.value)


@dataclass(frozen=True)
class Section:
    """What one subject measured; `error` if it broke off."""

    subject: str
    title: str
    rows: tuple[Row, ...]
    seconds: float
    error: str | None = None


def row_of(name: str, samples: Sequence[float], unit: str, goal: Goal | None = None, note: str = "") -> Row:
    """The median with the lowest and the highest. Raises ValueError without samples."""
    if not samples:
        raise ValueError(f"{name!r} has no samples: nothing was measured")
    return Row(name, statistics.median(samples), unit, min(samples), max(samples), goal, note)


def ratio_of(
    name: str, samples: Sequence[float], reference: Sequence[float], goal: Goal | None = None, note: str = ""
) -> Row:
    """Each sample over the reference's median; e.g. tasks a second over those of the limit."""
    middle = statistics.median(reference)
    return row_of(name, [sample / middle for sample in samples], "x", goal, note)


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` (0..1) of all do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
