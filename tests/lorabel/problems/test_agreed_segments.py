"""Against each moment by itself, and on many segments, all pairs of which would take half a minute to look at."""

from itertools import pairwise

import numpy as np

from lorabel.problems._segments import agreed
from lorabel.time_contracts import TimedLabel


def test_the_same_moments_are_kept_as_when_each_is_looked_at() -> None:
    """Boundaries are whole numbers; the moments between them decide."""
    random = np.random.default_rng(0)
    for _ in range(300):
        of_annotators = [_segments(random) for _ in range(int(random.integers(1, 5)))]
        kept = agreed(of_annotators, 1)
        moments = np.arange(0.5, 14)
        assert [_is_in(kept, moment) for moment in moments] == [_is_kept(of_annotators, at) for at in moments]
        assert all(end < start for (_, end, _), (start, _, _) in pairwise(kept))


def test_of_many_segments_the_overlaps_are_kept() -> None:
    of_annotators = [[(2.0 * i + shift, 2.0 * i + 1 + shift, 0) for i in range(10_000)] for shift in (0.0, 0.5)]
    older, newer = of_annotators
    assert agreed([older, newer, older], 0) == older
    assert agreed(of_annotators, 0) == newer, "the newest decides where two disagree"


def _segments(random: np.random.Generator) -> list[TimedLabel]:
    starts = random.integers(0, 10, 4)
    return [(float(at), float(at + random.integers(0, 4)), int(random.integers(2))) for at in starts]


def _is_in(segments: list[TimedLabel], moment: float) -> bool:
    return any(start <= moment < end and label == 1 for start, end, label in segments)


def _is_kept(of_annotators: list[list[TimedLabel]], moment: float) -> bool:
    votes = [_is_in(segments, moment) for segments in of_annotators]
    return 2 * sum(votes) + votes[-1] > len(votes)
