import numpy as np
import pytest

from lorabel.families.series.cells import cells_of
from lorabel.families.series.windows import (
    HOP,
    INSTANT_CELLS,
    MOST_LEARNED,
    feature_count,
    learned_windows,
    window_features,
    window_shares,
)
from lorabel.media.series import Series


def series(points: int, channels: int = 2) -> Series:
    values = np.random.default_rng(0).normal(size=(points, channels))
    return Series(np.arange(points, dtype=float), values)


@pytest.mark.parametrize("points", [1, 2, 5, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_window_has_finite_features(points: int, channels: int) -> None:
    features = window_features(cells_of(series(points, channels)))
    assert features.shape == (-(-points // HOP), feature_count(channels))
    assert np.isfinite(features).all()


def test_a_constant_channel_and_huge_values_have_finite_features() -> None:
    values = np.stack([np.full(50, 7.0), 1e300 * np.arange(50), np.zeros(50)], axis=1)
    assert np.isfinite(window_features(cells_of(Series(np.arange(50.0), values)))).all()


def test_scale_and_offset_of_a_channel_change_the_level_alone() -> None:
    drawn = series(200)
    scaled = Series(drawn.times * 60 + 1e12, 5 * drawn.values - 3)
    features, others = (window_features(cells_of(each)).astype(float) for each in (drawn, scaled))
    levels = 2
    np.testing.assert_allclose(features[:, :-levels], others[:, :-levels], atol=0.02)
    assert not np.allclose(features[:, -levels:], others[:, -levels:], atol=0.1)


def test_shares_say_how_much_of_a_window_is_marked() -> None:
    shares = window_shares(cells_of(series(20)), [(3.0, 6.0, 0), (10.0, 10.0, 1), (17.0, 50.0, 0)], 2)
    assert shares[:5, 0].tolist() == [0.0, 0.5, 1.0, 0.5, 0.0]
    assert HOP * shares[:, 1].sum() == 1 + 2 * INSTANT_CELLS
    assert shares[-3:, 0].tolist() == [0.0, 0.5, 1.0], "what goes on after the end is marked up to the end"


def test_segments_before_and_after_the_series_mark_nothing() -> None:
    outside = [(-9.0, -3.0, 0), (-3.0, -3.0, 0), (40.0, 50.0, 0), (40.0, 40.0, 0)]
    assert window_shares(cells_of(series(20)), outside, 1).sum() == 0


def test_a_last_point_that_shares_a_cell_is_in_the_series() -> None:
    uneven = Series(np.array([0.0, 1.0, 2.0, 2.9, 3.4]), np.zeros((5, 1)))
    assert window_shares(cells_of(uneven), [(3.4, 3.4, 0)], 1).sum() > 0


def test_of_a_long_series_a_limited_number_of_windows_is_learned_from_and_all_segments_are_among_them() -> None:
    shares = np.zeros((4000, 2), np.float32)
    shares[[7, 1001, 3999], 1] = 1.0
    learned = learned_windows(shares)
    assert len(learned) <= MOST_LEARNED and {7, 1001, 3999} <= set(learned.tolist())
    assert np.diff(learned).max() <= 6, "the rest is spread"
    assert len(learned_windows(shares[:100])) == 100
