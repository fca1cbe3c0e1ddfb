from itertools import pairwise

from lorabel.database.loss_curves import MOST_POINTS, LossCurve


def test_a_short_curve_is_kept_whole() -> None:
    curve = LossCurve()
    for step in range(1, 6):
        curve.add(step, 1 / step)
    assert curve.points() == [[step, 1 / step] for step in range(1, 6)]


def test_a_long_curve_keeps_steps_at_even_distances() -> None:
    curve = LossCurve()
    for step in range(1, 5001):
        curve.add(step, float(step))
    points = curve.points()
    steps = [int(step) for step, _ in points]
    assert MOST_POINTS / 2 <= len(points) <= MOST_POINTS
    assert len({later - earlier for earlier, later in pairwise(steps)}) == 1
    assert steps[0] == 1 and steps[-1] > 4900
    assert all(loss == step for step, loss in points)
