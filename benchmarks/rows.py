"""Measured figures with their spread and goal. This module does not measure."""

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
        """Value over limit, or limit over value for "<=": 1 or more means that the goal is met."""
        above, below = (value, self.limit) if self.comparison == ">=" else (self.limit, value)
        return above / below if below > 0 else float("inf")


@dataclass(frozen=True)
class Row:
    """A figure of the report.

    Args:
        value: the median of the repetitions, or the only figure.
        low: the lowest repetition.
        high: the highest repetition.
        note: what a reader must know to judge the figure.
    """

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    goal: Goal | None = None
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """None if there is no goal."""
        return None if self.goal is None else self.goal.is_met_by(self.value)


@dataclass(frozen=True)
class Section:
    """The rows of one subject.

    Args:
        error: why it broke off, if it did.
        machine: `Machine.line` of the run that measured the rows; empty: of the present run.
    """

    subject: str
    title: str
    rows: tuple[Row, ...]
    seconds: float
    error: str | None = None
    machine: str = ""


def row_of(name: str, samples: Sequence[float], unit: str, goal: Goal | None = None, note: str = "") -> Row:
    """A row of the samples' median, lowest and highest.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError(f"{name!r} has no samples: nothing was measured")
    return Row(name, statistics.median(samples), unit, min(samples), max(samples), goal, note)


def ratio_of(
    name: str, samples: Sequence[float], reference: Sequence[float], goal: Goal | None = None, note: str = ""
) -> Row:
    """A row of each sample over the reference's median, for example tasks per second over those of the limit."""
    reference_median = statistics.median(reference)
    return row_of(name, [sample / reference_median for sample in samples], "x", goal, note)


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample below which `share` (0..1) of all samples lie."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
