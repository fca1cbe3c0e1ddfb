"""The learning curve, against simulated projects whose curve is known."""

import numpy as np
import pytest

from lorabel.evaluation.learning_curve import LearningCurve, Measured, fit

COUNTS = (40, 80, 120, 160, 240, 320)
PROJECTS = 60


def value(annotations: float, floor: float, factor: float, power: float) -> float:
    return float(1 - floor - factor * annotations**-power)


def versions(seed: int, tasks: int, *curve: float) -> list[Measured]:
    """Versions whose figure is measured on some tasks, so it is not exact."""
    draw = np.random.default_rng(seed)
    return [Measured(count, draw.binomial(tasks, value(count, *curve)) / tasks, tasks) for count in COUNTS]


@pytest.mark.parametrize(
    ("curve", "tasks"),
    [((0.0, 2.0, 0.5), 100), ((0.05, 1.5, 0.5), 200), ((0.02, 1.0, 0.3), 50), ((0.0, 1.0, 0.3), 400)],
)
def test_the_band_has_the_truth_in_it_four_times_beyond_the_last_version(
    curve: tuple[float, float, float], tasks: int
) -> None:
    fits = [fit(versions(seed, tasks, *curve)) for seed in range(PROJECTS)]
    curves = [fitted for fitted in fits if isinstance(fitted, LearningCurve)]
    expected = [fitted.expected([4 * COUNTS[-1]])[0] for fitted in curves]
    truth = value(4 * COUNTS[-1], *curve)
    assert len(curves) > PROJECTS / 4
    assert sum(place.low <= truth <= place.high for place in expected) >= 0.8 * len(curves)


def test_the_annotations_that_a_figure_needs_are_about_right() -> None:
    curve = (0.0, 2.0, 0.5)
    target = value(960, *curve)
    needed = []
    for seed in range(PROJECTS):
        fitted = fit(versions(seed, 400, *curve))
        assert isinstance(fitted, LearningCurve)
        needed.append(fitted.needed(target))
    assert np.mean([(row.low or 0) <= 960 <= (row.high or np.inf) for row in needed]) >= 0.8
    assert 800 <= np.median([row.likely or np.inf for row in needed]) <= 2000


def test_a_figure_beyond_the_floor_is_not_in_sight() -> None:
    fitted = fit(versions(0, 2000, 0.2, 2.0, 0.8))
    assert isinstance(fitted, LearningCurve)
    assert fitted.needed(0.99).likely is None
    assert fitted.expected([320.0])[0].value == pytest.approx(value(320, 0.2, 2.0, 0.8), abs=0.02)


@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        ([], "there are 0 with 0"),
        ([Measured(40, 0.5, 50), Measured(80, 0.6, 50), Measured(120, 0.7, 50)], "there are 3 with 3"),
        ([Measured(40 + number // 2, 0.6, 50) for number in range(6)], "2 times the smallest"),
        ([Measured(40 * number, 0.6, 50) for number in range(1, 7)], "does not clearly rise"),
        ([Measured(40 * number, 0.9 - number / 10, 50) for number in range(1, 7)], "does not clearly rise"),
        ([Measured(40, 0.6, 50)] * 6, "there are 6 with 1"),
    ],
)
def test_too_few_or_useless_versions_give_a_reason(measured: list[Measured], reason: str) -> None:
    fitted = fit(measured)
    assert isinstance(fitted, str)
    assert reason in fitted


def test_perfect_versions_are_fitted(recwarn: pytest.WarningsRecorder) -> None:
    fitted = fit([Measured(40 * number, min(1.0, 0.7 + number / 10), 50) for number in range(1, 7)])
    assert isinstance(fitted, LearningCurve)
    assert fitted.expected([1000.0])[0].high <= 1
    assert not recwarn.list
