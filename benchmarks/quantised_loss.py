"""The loss of a precision: what float32 answers rightly, and another precision does not."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

FLOAT32 = "float32"


@dataclass(frozen=True)
class Loss:
    """A way to answer a data set, in a precision.

    Args:
        right: the share of right answers, of boxes mAP@50; mean over the seeds.
        points: by how many points it is below float32's.
        low: with `high` the interval of 95% of `points`.
        changed: the share of tasks whose answer is another; None for boxes.
        tested: how many tasks nobody annotated, of boxes pictures.
    """

    name: str
    way: str
    precision: str
    right: float
    points: float
    low: float
    high: float
    changed: float | None
    tested: int

    @property
    def is_compared(self) -> bool:
        """Whether it is not float32 itself."""
        return self.precision != FLOAT32


def interval(differences: Sequence[float] | NDArray[np.floating]) -> tuple[float, float, float]:
    """Mean of independent differences, and its interval of 95% by Student's t."""
    values = np.asarray(differences, np.float64)
    mean = float(values.mean())
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half
