"""Checked by hand, and against a search through all ways to match."""

from itertools import combinations, permutations

import numpy as np
import pytest

from lorabel.evaluation.segment_metrics import segment_metrics
from lorabel.time_contracts import TimedLabel


def test_figures_of_known_cases_by_hand() -> None:
    """The first is found 100 ms late and ends 300 ms early: 1.6 s of 2 s, which counts. Of the second a third."""
    truth = [(0.0, 2.0, 0), (3.0, 4.0, 0), (3.0, 4.0, 1)]
    guess = [(0.1, 1.7, 0), (3.5, 4.5, 0), (3.0, 4.0, 1)]
    values = segment_metrics([truth, []], [guess, [(0.0, 1.0, 1)]], ["hum", "hiss"]).values
    assert values["precision"] == 2 / 4 and values["recall"] == 2 / 3 and values["f1"] == pytest.approx(4 / 7)
    assert values["boundary_error_ms"] == pytest.approx((100 + 300 + 0 + 0) / 4)
    assert values["per_class"]["hum"] == {
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
        "boundary_error_ms": pytest.approx(200.0),
        "support": 2,
    }
    assert values["per_class"]["hiss"]["f1"] == pytest.approx(2 / 3) and values["macro_f1"] == pytest.approx(
        7 / 12
    )


def test_an_overlap_of_exactly_a_half_counts_and_less_does_not() -> None:
    assert segment_metrics([[(0.0, 1.0, 0)]], [[(0.0, 2.0, 0)]], ["a"]).values["f1"] == 1.0
    assert segment_metrics([[(0.0, 1.0, 0)]], [[(0.0, 2.001, 0)]], ["a"]).values["f1"] == 0.0


def test_silence_that_is_left_silent_is_right() -> None:
    values = segment_metrics([[]], [[]], ["a"]).values
    assert (values["f1"], values["boundary_error_ms"]) == (1.0, None)
    assert segment_metrics([[]], [[(0.0, 1.0, 0)]], ["a"]).values["f1"] == 0.0
    assert segment_metrics([[(0.0, 1.0, 0)]], [[]], ["a"]).values["f1"] == 0.0


def test_a_label_of_its_own_is_needed() -> None:
    assert segment_metrics([[(0.0, 1.0, 0)]], [[(0.0, 1.0, 1)]], ["a", "b"]).values["f1"] == 0.0


def test_as_many_segments_count_as_in_the_best_of_all_ways_to_match() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        truth, guess = (_random_segments(rng) for _ in range(2))
        values = segment_metrics([truth], [guess], ["a"]).values
        assert round(values["recall"] * len(truth)) == _most_matched(truth, guess)


def test_of_many_segments_each_is_matched() -> None:
    """A table of all pairs would have 100 million entries."""
    truth = [(2.0 * i, 2.0 * i + 1, 0) for i in range(10_000)]
    late = [(start + 0.25, end + 0.25, label) for start, end, label in truth]
    values = segment_metrics([truth], [late], ["a"]).values
    assert values["f1"] == 1.0 and values["boundary_error_ms"] == pytest.approx(250)


def test_segments_that_touch_are_matched_in_any_order() -> None:
    truth = [(2.0, 3.0, 0), (0.0, 2.0, 0), (0.0, 9.0, 0)]
    guess = [(0.0, 8.0, 0), (2.0, 3.5, 0), (0.5, 2.0, 0)]
    assert segment_metrics([truth], [guess], ["a"]).values["f1"] == 1.0


def _random_segments(rng: np.random.Generator) -> list[TimedLabel]:
    starts, lengths = rng.uniform(0, 1, 3), rng.uniform(0.3, 2, 3)
    return [(float(start), float(start + length), 0) for start, length in zip(starts, lengths, strict=True)]


def _most_matched(truth: list[TimedLabel], guess: list[TimedLabel]) -> int:
    def counts(one: TimedLabel, other: TimedLabel) -> bool:
        union = max(one[1], other[1]) - min(one[0], other[0])
        return (min(one[1], other[1]) - max(one[0], other[0])) / union >= 0.5

    sizes = [
        size
        for size in range(1, 4)
        for chosen in combinations(truth, size)
        for others in permutations(guess, size)
        if all(map(counts, chosen, others))
    ]
    return max(sizes, default=0)
