"""Scores of segments of series say how often they are right, which the test knows."""

import numpy as np
import pytest

from lorabel.families.encoders.heads.fit_series import AnnotatedSeries, fit_series
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.encoders.heads.platt import scaled
from lorabel.families.series.found_series import found_runs
from lorabel.families.series.windows import MOST_LEARNED
from lorabel.series_contracts import SeriesTarget

WINDOWS, DIM = 120, 8
CLEAR, VAGUE, INSTANT = 0, 1, 2
INSTANT_WINDOWS = 4


def series(number: int, windows: int = WINDOWS) -> AnnotatedSeries:
    """CLEAR is where it looks like it. VAGUE is one quarter or another of where it does. INSTANT is a point."""
    rng = np.random.default_rng(number)
    features = rng.normal(0, 0.3, (windows, DIM)).astype(np.float32)
    shares = np.zeros((windows, 3), np.float32)
    at = int(rng.integers(95, 110))
    begin = 40 + 5 * (number % 4)
    for label, seen, marked in (
        (CLEAR, (5, 20), (5, 20)),
        (VAGUE, (40, 60), (begin, begin + 8)),
        (INSTANT, (at, at + INSTANT_WINDOWS), (at, at + INSTANT_WINDOWS)),
    ):
        features[slice(*seen), label] += 4
        shares[slice(*marked), label] = 1
    target = SeriesTarget(((10.0, 40.0, CLEAR), (80.0, 96.0, VAGUE), (2.0 * at, 2.0 * at, INSTANT)))
    return AnnotatedSeries(features, shares, target, number)


def fitted(count: int, windows: int = WINDOWS) -> LinearHead:
    head = fit_series([series(number, windows) for number in range(count)])
    assert head is not None
    return head


def test_a_clear_label_and_instants_score_high_and_a_vague_one_low() -> None:
    head = fitted(30)
    assert head.slots == ("range", "range", "instant")
    of_label: dict[int, list[float]] = {CLEAR: [], VAGUE: [], INSTANT: []}
    for number in range(100, 112):
        logits = head.logits(series(number).features, np.zeros((1, 3), np.float32))
        for run in found_runs(logits, [False, False, True]):
            of_label[run.label].append(scaled(run.probability, head.score_scales, run.label))
    assert np.mean(of_label[CLEAR]) > 0.9
    assert np.mean(of_label[INSTANT]) > 0.9
    assert not of_label[VAGUE] or np.mean(of_label[VAGUE]) < 0.4


@pytest.mark.slow
@pytest.mark.parametrize(("count", "windows"), [(9, WINDOWS), (10, MOST_LEARNED)])
def test_few_series_and_parts_of_long_ones_are_not_calibrated(count: int, windows: int) -> None:
    assert fitted(count, windows).score_scales == ()
    assert fitted(10).score_scales != ()
