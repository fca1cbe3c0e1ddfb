import numpy as np
import pytest

from benchmarks import series_curves
from benchmarks.curve_report import CROSS_VALIDATED, HEAD, ZERO_SHOT
from benchmarks.patchtst import DIM, trained_encoder


@pytest.mark.slow
def test_the_head_is_better_than_a_regression_on_usual_statistics() -> None:
    points = series_curves.measure("series", [5], 1)
    accuracy = {point.way: point.accuracy for point in points}
    assert accuracy[HEAD] > accuracy[CROSS_VALIDATED] + 0.1 > accuracy[ZERO_SHOT] == 0.0
    assert {point.annotations for point in points} == {0, 5}


@pytest.mark.slow
def test_a_patchtst_has_states_of_every_cell() -> None:
    series = [np.random.default_rng(number).normal(size=(300, 2)) for number in range(2)]
    encode = trained_encoder(series, seconds=0.2)
    for cells in (2, 63, 300):
        states = encode(np.random.default_rng(9).normal(size=(cells, 2)))
        assert states.shape == (cells, 2 * DIM) and np.isfinite(states).all()
        assert np.abs(states).sum(axis=1).min() > 0
