"""Whether one version is better than another on the same tasks, or only lucky."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from math import comb

from lorabel.evaluation.proportions import Z_95, Interval

# Values that differ by less are equal: they were computed in another order.
TINY = 1e-9
# With fewer changed tasks the test is exact; with more, comb would have thousands of digits.
MOST_EXACT = 1000


@dataclass(frozen=True)
class Paired:
    """How many tasks a second version answers better and worse than a first."""

    better: int
    worse: int
    same: int

    @classmethod
    def of(cls, values: Iterable[tuple[float, float]]) -> "Paired":
        """Count pairs of (value of the first, value of the second)."""
        changes = [second - first for first, second in values]
        better = sum(change > TINY for change in changes)
        worse = sum(change < -TINY for change in changes)
        return cls(better, worse, len(changes) - better - worse)

    @property
    def tasks(self) -> int:
        """All of them."""
        return self.better + self.worse + self.same

    @property
    def difference(self) -> float:
        """Share of tasks that are better, less the share that are worse."""
        return (self.better - self.worse) / self.tasks if self.tasks else 0.0

    @property
    def interval(self) -> Interval:
        """Where the difference lies with 95% confidence; both ends in [-1, 1].

        The usual interval with half a task more on each side, which holds what it promises for few tasks as well.

        Source: Agresti and Min, Simple improved confidence intervals for comparing matched proportions,
        Statistics in Medicine 24 (2005).
        """
        if not self.tasks:
            return Interval(-1.0, 1.0)
        tasks, better, worse = self.tasks + 2, self.better + 0.5, self.worse + 0.5
        middle = (better - worse) / tasks
        half = Z_95 / tasks * math.sqrt(better + worse - (better - worse) ** 2 / tasks)
        return Interval(max(-1.0, middle - half), min(1.0, middle + half))

    @property
    def p_value(self) -> float:
        """How probable so uneven a division of the changed tasks is by luck: the sign test, two-sided.

        Where tasks are right or wrong this is McNemar's exact test. With more than MOST_EXACT changed tasks it is
        the normal approximation with a correction for continuity.
        """
        changed, fewer = self.better + self.worse, min(self.better, self.worse)
        if changed > MOST_EXACT:
            distance = (changed / 2 - fewer - 0.5) / math.sqrt(changed / 4)
            return min(1.0, math.erfc(distance / math.sqrt(2)))
        tail: int = sum(comb(changed, count) for count in range(fewer + 1))
        return min(1.0, 2 * tail / int(2**changed))
