"""Scores of left out rows against ridge regressions that are fitted without these rows."""

import numpy as np
import pytest

from lorabel.families.encoders.heads.ridge import Groups, Ridge, Scaling


def brute_force(
    features: np.ndarray, targets: np.ndarray, strength: float, keys: list[int], has_intercept: bool
) -> np.ndarray:
    predicted = np.empty_like(targets)
    for row, key in enumerate(keys):
        others = [index for index, other in enumerate(keys) if other != key]
        known, answers = features[others], targets[others]
        centre, mean = (known.mean(0), answers.mean(0)) if has_intercept else (0.0, 0.0)
        known = known - centre
        gram = known.T @ known + strength * np.eye(features.shape[1])
        predicted[row] = mean + (features[row] - centre) @ np.linalg.solve(gram, known.T @ (answers - mean))
    return predicted


@pytest.mark.parametrize(("rows", "columns"), [(12, 30), (40, 7)])
@pytest.mark.parametrize("has_intercept", [False, True])
@pytest.mark.parametrize("group_count", [40, 5])
def test_left_out_scores_equal_brute_force(rows: int, columns: int, has_intercept: bool, group_count: int) -> None:
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(rows, columns)), rng.normal(size=(rows, 2))
    keys = [row % group_count for row in range(rows)]
    used = Scaling.of(features).apply(features) if has_intercept else features
    ridge = Ridge(used, has_intercept=has_intercept)
    scores = ridge.left_out(targets, 0.3, Groups.of(keys))
    np.testing.assert_allclose(scores, brute_force(used, targets, 0.3, keys, has_intercept), atol=1e-10)


@pytest.mark.parametrize(("rows", "columns"), [(12, 30), (40, 7)])
def test_weights_solve_the_normal_equations(rows: int, columns: int) -> None:
    rng = np.random.default_rng(1)
    features, targets = rng.normal(size=(rows, columns)), rng.normal(size=(rows, 2))
    weights = Ridge(features).weights(targets, 0.7)
    np.testing.assert_allclose(features.T @ (targets - features @ weights), 0.7 * weights, atol=1e-10)


def test_scaling_is_undone_in_weights_and_bias() -> None:
    rng = np.random.default_rng(2)
    features, weights, bias = rng.normal(size=(5, 4)) + 3, rng.normal(size=(4, 2)), rng.normal(size=2)
    scaling = Scaling.of(features)
    unscaled, unscaled_bias = scaling.undo(weights, bias)
    np.testing.assert_allclose(features @ unscaled + unscaled_bias, scaling.apply(features) @ weights + bias)
    assert np.isfinite(Scaling.of(features[:1]).apply(features[:1])).all()
