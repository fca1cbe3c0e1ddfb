"""The interval around a share that was counted on few cases."""

import math
from typing import NamedTuple

# The 97.5th percentile of the normal distribution: two-sided 95%.
Z_95 = 1.959963984540054


class Interval(NamedTuple):
    """Where a share lies with 95% confidence; both ends in [0, 1]."""

    low: float
    high: float


def wilson(successes: int, cases: int) -> Interval:
    """Wilson's score interval, 95%, of a share. All of [0, 1] if there are no cases.

    Unlike the usual interval, it keeps within [0, 1] and has a width where all cases agree.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    if not cases:
        return Interval(0.0, 1.0)
    share, z2 = successes / cases, Z_95**2
    middle = (share + z2 / (2 * cases)) / (1 + z2 / cases)
    half = Z_95 / (1 + z2 / cases) * math.sqrt(share * (1 - share) / cases + z2 / (4 * cases**2))
    # Where all cases agree, the end is exactly 0 or 1.
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == cases else min(1.0, middle + half)
    return Interval(low, high)


def cases_needed(share: float, least: float, most: int = 100_000) -> int | None:
    """From how many cases on `wilson` lies above `least`, if the share stays. None if more than `most`."""
    if share <= least:
        return None
    low, high = 1, most
    while low < high:
        cases = (low + high) // 2
        if wilson(round(share * cases), cases).low >= least:
            high = cases
        else:
            low = cases + 1
    return low if wilson(round(share * low), low).low >= least else None
