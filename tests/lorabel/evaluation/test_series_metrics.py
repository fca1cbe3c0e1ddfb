import pytest

from lorabel.evaluation.series_metrics import INSTANT_STEPS, series_metrics

NAMES = ("step", "spike")


def test_boundaries_are_off_by_steps_of_each_series() -> None:
    truth = [[(0.0, 1000.0, 0)], [(0.0, 10.0, 0)]]
    found = [[(200.0, 1000.0, 0)], [(0.0, 8.0, 0)]]
    values = series_metrics(truth, found, [100.0, 1.0], NAMES).values
    assert values["f1"] == 1.0
    assert values["boundary_error_steps"] == pytest.approx((2 + 0 + 0 + 2) / 4)
    assert values["per_class"]["spike"]["boundary_error_steps"] is None


@pytest.mark.parametrize(("away", "is_right"), [(0, True), (0.66, True), (0.67, False)])
def test_an_instant_is_right_if_it_is_near(away: float, is_right: bool) -> None:
    step = 60_000.0
    moment = 1e12 + away * INSTANT_STEPS * step
    values = series_metrics([[(1e12, 1e12, 1)]], [[(moment, moment, 1)]], [step], NAMES).values
    assert values["per_class"]["spike"]["f1"] == float(is_right)


def test_a_range_is_no_instant_of_another_label_and_a_step_may_be_unknown() -> None:
    values = series_metrics([[(1.0, 9.0, 0)]], [[(5.0, 5.0, 1)]], [0.0], NAMES).values
    assert (values["f1"], values["precision"], values["recall"]) == (0.0, 0.0, 0.0)
