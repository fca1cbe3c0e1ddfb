from itertools import pairwise

import pytest

from backend.pages.charts import Fitted, Point, line_chart, spark


def test_points_are_placed_between_the_axes_and_their_intervals_around_them() -> None:
    points = [Point(1, 0.5, 0.4, 0.6), Point(3, 0.9, 0.8, 0.95)]
    chart = line_chart("t", "x", points, (0.5, "base"))
    assert chart is not None and chart.base is not None
    first, last = chart.dots
    assert first.x < last.x and first.y > last.y
    assert first.top is not None and first.bottom is not None
    assert first.top < first.y < first.bottom
    assert chart.base.at == first.y
    assert all(chart.left <= dot.x <= chart.right and 0 < dot.y < chart.bottom for dot in chart.dots)


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ((0.45, 0.95), ["40 %", "60 %", "80 %", "100 %"]),
        ((0.0, 1.0), ["0 %", "50 %", "100 %"]),
        ((1.0, 1.0), ["95 %", "100 %"]),
    ],
)
def test_shares_have_ticks_that_are_easy_to_read(values: tuple[float, float], ticks: list[str]) -> None:
    chart = line_chart("t", "x", [Point(1, values[0]), Point(2, values[1])])
    assert chart is not None
    assert [tick.text for tick in chart.y_ticks] == ticks
    assert all(0 < dot.y < chart.bottom + 1 for dot in chart.dots)


@pytest.mark.parametrize(
    "values",
    [(0.5, 0.85, 0.9), (0.9, 0.85, 0.5), (0.5, 0.65, 0.75, 0.82, 0.88, 0.91), (0.95, 0.85, 0.95), (0.5, 0.6)],
)
def test_the_text_of_the_level_keeps_clear_of_the_line(values: tuple[float, ...]) -> None:
    points = [Point(number, value) for number, value in enumerate(values)]
    chart = line_chart("t", "x", points, (0.8, "before the first version 80 %"))
    assert chart is not None and chart.base_place is not None
    x, y, anchor = chart.base_place
    left = x - 185 if anchor == "end" else x
    for first, last in pairwise(chart.dots):
        for part in range(101):
            place = (first.x + (last.x - first.x) * part / 100, first.y + (last.y - first.y) * part / 100)
            assert not (left < place[0] < left + 185 and y - 11 < place[1] < y + 2), place
    assert chart.left <= left and left + 185 <= chart.right and 0 < y < chart.bottom


@pytest.mark.parametrize("values", [(0.2, 2.0), (0.0001, 0.0002), (5.0, 5.0), (120.0, 4000.0), (-1.0, 1.0)])
def test_losses_of_any_size_lie_within_the_axes(values: tuple[float, float]) -> None:
    chart = line_chart("t", "step", [Point(1, values[0]), Point(2, values[1])], is_share=False)
    assert chart is not None
    ends = [tick.at for tick in chart.y_ticks]
    assert 2 <= len(ends) <= 7
    assert all(min(ends) - 1e-6 <= dot.y <= max(ends) + 1e-6 for dot in chart.dots)


def test_a_rejected_version_is_a_ring_beside_the_line() -> None:
    chart = line_chart("t", "x", [Point(1, 0.5), Point(2, 0.4, is_hollow=True), Point(3, 0.6)])
    assert chart is not None
    assert chart.path.count("L") == 1 and len(chart.dots) == 3


def test_nothing_is_drawn_of_nothing() -> None:
    assert line_chart("t", "x", []) is None
    assert spark([], "") is None


def test_equal_values_are_a_level_line() -> None:
    line = spark([0.5, 0.5, 0.5], "t")
    assert line is not None
    assert line.last[1] == line.height / 2


def test_texts_of_ticks_do_not_lie_over_each_other() -> None:
    points = [Point(count, 0.5) for count in (40, 80, 160, 640, 1280)]
    fitted = [Fitted(40, 0.3, 0.4, 0.5), Fitted(2560, 0.7, 0.8, 0.9)]
    chart = line_chart("growth", "annotations", points, fitted=fitted)
    assert chart is not None
    places = [tick.at for tick in chart.x_ticks]
    assert chart.x_ticks[-1].text == "2,560"
    assert all(right - left >= 30 for left, right in pairwise(places))
    # The curve begins at the first point and ends right of the last, with the band around it.
    assert chart.path == ""
    assert chart.curve.startswith(f"M{chart.dots[0].x:.1f} ")
    assert chart.band.endswith("Z") and chart.band.count("L") == 3
