import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import curve_report
from benchmarks.calibration import calibration_error
from benchmarks.curve_report import (
    BOXES,
    CROSS_VALIDATED,
    FULL,
    HEAD,
    MEAN,
    RIDGE_SCALED,
    SCALED,
    ZERO_SHOT,
    Point,
)
from benchmarks.machine import Machine

MACHINE = Machine("a processor", 2, 24, None, "cpu", "float32", "2.15", "3.11", "abc", 0.5)


def points(head: float, scaled: float, cross_validated: float, zero_shot: float = 0.3) -> list[Point]:
    """Three seeds; the median is the figure that is given."""
    ways = {HEAD: head, SCALED: scaled, CROSS_VALIDATED: cross_validated}
    measured = [
        Point("a set", way, seed, 10, accuracy + shift, 0.1, 0.01)
        for way, accuracy in ways.items()
        for seed, shift in enumerate((-0.2, 0.0, 0.1))
    ]
    return [*measured, Point("a set", ZERO_SHOT, 0, 0, zero_shot, 0.1, 0.0)]


@pytest.mark.parametrize(
    ("head", "scaled", "cross_validated", "zero_shot", "is_missed"),
    [
        (0.6, 0.61, 0.5, 0.3, False),
        (0.6, 0.62, 0.5, 0.3, True),
        (0.6, 0.5, 0.62, 0.3, True),
        (0.6, 0.5, 0.5, 0.62, True),
        (0.6, 0.5, 0.5, 0.61, False),
    ],
)
def test_a_cell_misses_the_goal_if_any_bound_is_ahead_by_more_than_the_margin(
    head: float, scaled: float, cross_validated: float, zero_shot: float, is_missed: bool
) -> None:
    missed = curve_report.missed_cells(points(head, scaled, cross_validated, zero_shot))
    assert missed == (["a set at 10 (0.600 instead of 0.620)"] if is_missed else [])


def test_tables_have_medians_quartiles_and_the_missed_cells() -> None:
    text = curve_report.text(MACHINE, points(0.6, 0.7, 0.5))
    assert "| head |  | 0.60 (0.50 to 0.65) |" in text
    assert "| zero-shot | 0.30 |  |" in text
    assert "The head misses the goal in 1 of 1 cells: a set at 10 (0.600 instead of 0.700)." in text


def test_picture_and_figures_are_written(tmp_path: Path) -> None:
    measured = points(0.6, 0.7, 0.5)
    curve_report.write(MACHINE, measured, tmp_path)
    figures = json.loads((tmp_path / "learning-curves.json").read_text())
    assert [Point(**point) for point in figures["points"]] == measured
    assert (tmp_path / "learning-curves.png").stat().st_size > 1000


def test_calibration_error_is_how_far_confidence_is_from_accuracy() -> None:
    right_and_wrong = [True, True, False, False]
    assert calibration_error([0.95] * 4 + [0.55] * 4, right_and_wrong + [True] * 4) == pytest.approx(0.45)
    assert calibration_error([0.55] * 20, [True] * 11 + [False] * 9) == pytest.approx(0.0)


def of_kind(kind: str, way: str, course: str, figures: Mapping[int, float]) -> list[Point]:
    return [Point(course, way, 0, count, figure, None, 0.01, kind) for count, figure in figures.items()]


def test_ratings_are_compared_with_ridge_regression_and_the_mean() -> None:
    head = of_kind("rating", HEAD, "stars", {5: 0.6, 10: 0.7})
    ridge = of_kind("rating", RIDGE_SCALED, "stars", {5: 0.5, 10: 0.75})
    mean = of_kind("rating", MEAN, "stars", {5: 0.65, 10: 0.65})
    measured = [*head, *ridge, *mean, Point("stars", ZERO_SHOT, 0, 0, 0.0, None, 0.0, "rating")]
    assert curve_report.missed_cells(measured) == [
        "stars at 5 (0.600 instead of 0.650)",
        "stars at 10 (0.700 instead of 0.750)",
    ]
    text = curve_report.text(MACHINE, measured)
    assert "**stars** (rating; closeness" in text
    assert "misses the goal in 2 of 2 cells" in text


def test_each_kind_has_its_own_means_over_the_sets_with_all_numbers_of_annotations() -> None:
    large = [of_kind("taxonomy", HEAD, name, {10: 0.5 + step, 40: 0.7}) for name, step in (("a", 0.0), ("b", 0.2))]
    small = of_kind("taxonomy", HEAD, "c", {10: 1.0, 20: 1.0})
    text = curve_report.text(MACHINE, [*points(0.6, 0.7, 0.5), *large[0], *large[1], *small])
    _, means = text.split("**all data sets, taxonomy** (a, b)")
    assert "| head | 0.600 | 0.700 |" in means
    assert "calibration" not in means
    assert "**all data sets, choice** (a set)" in text


def test_docs_keep_data_sets_and_training_runs_that_were_measured_in_another_run(tmp_path: Path) -> None:
    earlier = of_kind(BOXES, FULL, "boxes", {5: 0.4})
    curve_report.write(MACHINE, [*earlier, *points(0.6, 0.7, 0.5)], tmp_path)
    file = tmp_path / "learning-curves.json"
    assert curve_report._earlier(file, points(0.7, 0.7, 0.5)) == earlier
    assert curve_report._earlier(file, [*of_kind(BOXES, FULL, "boxes", {5: 0.5}), *points(0.7, 0.7, 0.5)]) == []
    assert "**boxes** (boxes; mAP@50)" in curve_report.text(MACHINE, earlier)
