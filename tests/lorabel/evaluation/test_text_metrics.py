import random
from functools import cache

import pytest

from lorabel.evaluation.text_metrics import ReadLine, edit_distance, text_lines

TOP, MIDDLE, LOW = (0.1, 0.1, 0.5, 0.2), (0.1, 0.4, 0.5, 0.5), (0.1, 0.7, 0.5, 0.8)


def distance_by_definition(first: str, second: str) -> int:
    """Levenshtein's distance by its recursive definition."""

    @cache
    def distance(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))

    return distance(first, second)


def test_the_edit_distance_is_that_of_the_definition() -> None:
    dice = random.Random(0)
    for _ in range(300):
        first, second = ("".join(dice.choices("abc", k=dice.randrange(7))) for _ in range(2))
        assert edit_distance(first, second) == distance_by_definition(first, second)
    assert edit_distance("TOTAL 6.00", "T0TAL 6.0") == 2


def test_figures_of_a_picture_whose_answer_is_known() -> None:
    truth = [ReadLine(TOP, "Bakery", 0), ReadLine(MIDDLE, "Bread", 1), ReadLine(LOW, "6.00", None)]
    found = [
        ReadLine(TOP, "Bakery ", 0),  # right
        ReadLine((0.1, 0.41, 0.5, 0.5), "Broad", 1),  # one character of five is wrong
        ReadLine((0.6, 0.7, 0.9, 0.8), "7.00", None),  # not where the third line is
    ]
    values = text_lines([truth], [found], ["Shop", "Item"]).values
    assert values["detection_f1"] == pytest.approx(2 / 3)
    assert values["end_to_end_f1"] == values["f1"] == pytest.approx(1 / 3)
    # One character is replaced, four of the missing line and four of the extra line.
    assert values["character_error_rate"] == pytest.approx((1 + 4 + 4) / 15)
    assert values["label_accuracy"] == 1.0 and values["lines"] == 3


def test_a_wrong_label_counts_in_the_primary_figure_only() -> None:
    truth, found = [ReadLine(TOP, "Bakery", 0)], [ReadLine(TOP, "Bakery", None)]
    metrics = text_lines([truth], [found], ["Shop"])
    assert metrics.primary == "f1"
    assert (metrics.values["f1"], metrics.values["end_to_end_f1"]) == (0.0, 1.0)
    assert metrics.values["character_error_rate"] == metrics.values["label_accuracy"] == 0.0


def test_pictures_without_text() -> None:
    assert text_lines([[]], [[]], []).values["f1"] == 1.0
    extra = text_lines([[]], [[ReadLine(TOP, "x", None)]], []).values
    assert (extra["f1"], extra["character_error_rate"]) == (0.0, 1.0)
    nothing = text_lines([[ReadLine(TOP, "abc", None)]], [[]], []).values
    assert (nothing["f1"], nothing["character_error_rate"]) == (0.0, 1.0)
