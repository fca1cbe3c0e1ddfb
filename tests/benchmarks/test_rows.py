import pytest

from benchmarks.rows import Goal, Row, percentile, ratio_of, row_of


def test_a_row_of_samples_has_their_median_lowest_and_highest() -> None:
    row = row_of("served", [3.0, 1.0, 2.0, 9.0], "tasks/s")
    assert (row.value, row.low, row.high, row.is_met) == (2.5, 1.0, 9.0, None)


def test_a_row_without_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match="'served' has no samples"):
        row_of("served", [], "tasks/s")


def test_a_ratio_divides_each_sample_by_the_median_of_the_reference() -> None:
    row = ratio_of("served of limit", [8.0, 9.0, 12.0], [5.0, 10.0, 30.0], Goal(">=", 0.9))
    assert (row.value, row.low, row.high, row.unit, row.is_met) == (0.9, 0.8, 1.2, "x", True)


@pytest.mark.parametrize(
    ("goal", "value", "is_met", "margin"),
    [
        (Goal(">=", 5.0), 5.0, True, 1.0),
        (Goal(">=", 5.0), 4.0, False, 0.8),
        (Goal("<=", 50.0), 25.0, True, 2.0),
        (Goal("<=", 50.0), 100.0, False, 0.5),
        (Goal("<=", 50.0), 0.0, True, float("inf")),
        (Goal("<=", 50.0), -3.0, True, float("inf")),
    ],
)
def test_a_goal_is_met_on_its_side_of_the_limit(goal: Goal, value: float, is_met: bool, margin: float) -> None:
    assert Row("figure", value, "", goal=goal).is_met is is_met
    assert goal.margin(value) == pytest.approx(margin)


def test_a_percentile_of_a_hundred_samples_is_the_sample_of_that_rank() -> None:
    samples = [float(i) for i in range(100, 0, -1)]
    assert percentile(samples, 0.5) == 51.0
    assert percentile(samples, 0.99) == 100.0
    assert percentile([7.0], 0.99) == 7.0
