"""Fits the head of multiple choice: for each label whether it fits, whatever the others.

The logit of a label is a * zero-shot + sum of c_k * ridge_k + e * base rate. Ridges are fitted for each label: on
what the zero-shot probability and the base rate leave unexplained, and on the shares themselves. The factors a, c
and e are shared by all labels and fitted on scores of left out tasks, so the result is calibrated without
held-out tasks. All of it is linear in the features: one matrix and one bias.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from lorabel.families.encoders.heads.factors import fit_logistic, sigmoid, size_of
from lorabel.families.encoders.heads.linear_head import Array, LinearHead
from lorabel.families.encoders.heads.ridge import Float64, Groups, Ridge, Scaling, with_intercept

STRENGTHS = (0.1, 1.0)
# What the factors are before anything is known, and how strongly they are held there.
ZERO_SHOT, RIDGE, BASE_RATE = (1.0, 1.0), (0.1, 5.0), (0.0, 4.0)


def fit_multiple(
    features: Array, zero_shot: Array, shares: Array, groups: Sequence[Hashable] | None = None
) -> LinearHead | None:
    """Fit the head; None if no label was ever chosen.

    Args:
        features: (tasks, features).
        zero_shot: (tasks, labels): the base model's logits, above 0 if the label fits.
        shares: (tasks, labels) in [0, 1]: the share of annotators who chose each label.
        groups: (tasks,): tasks that are left out together; None: each alone.
    """
    labels = np.flatnonzero(shares.max(0, initial=0.0) > 0)
    if not len(labels):
        return None
    truth, logits = shares[:, labels].astype(np.float64), zero_shot[:, labels].astype(np.float64)
    scaling = Scaling.of(features.astype(np.float64))
    ridge = Ridge(with_intercept(scaling.apply(features.astype(np.float64))))
    left_out = Groups.of(range(len(truth)) if groups is None else groups)
    rates, overall_rate = _left_out_rates(truth, left_out)
    base = _fit([logits, rates], truth, [ZERO_SHOT, BASE_RATE])
    unexplained = truth - sigmoid(base[0] * logits + base[1] * rates)
    around_the_mean = truth - truth.mean(0)
    experts = [(targets, strength) for targets in (unexplained, around_the_mean) for strength in STRENGTHS]
    scores = [ridge.left_out(targets, strength, left_out) for targets, strength in experts]
    sizes = [size_of(score) for score in scores]
    sources = [logits, *(score / size for score, size in zip(scores, sizes, strict=True)), rates]
    factors = _fit(sources, truth, [ZERO_SHOT, *[RIDGE] * len(experts), BASE_RATE])
    weights = sum(
        factor / size * ridge.weights(targets, strength)
        for factor, size, (targets, strength) in zip(factors[1:-1], sizes, experts, strict=True)
    )
    assert isinstance(weights, np.ndarray)
    return _head(scaling, weights, factors, overall_rate, labels, shares.shape[1])


def _left_out_rates(truth: Float64, groups: Groups) -> tuple[Float64, Float64]:
    """The logit of how often each label is chosen: (tasks, labels) without the task's group, (labels,) in all."""
    chosen = truth.sum(0)
    others, counts = chosen - truth, np.full((len(truth), 1), len(truth) - 1.0)
    for group in groups.larger:
        others[group], counts[group] = chosen - truth[group].sum(0), len(truth) - len(group)
    return _logit_of_share(others, counts), _logit_of_share(chosen, np.full(1, float(len(truth))))


def _logit_of_share(chosen: Float64, count: Float64) -> Float64:
    return np.asarray(np.log((chosen + 0.5) / (count - chosen + 0.5)))


def _fit(sources: Sequence[Float64], truth: Float64, priors: Sequence[tuple[float, float]]) -> Float64:
    """The factor of each source, (sources,), from scores of shape (tasks, labels)."""
    table = np.stack([source.ravel() for source in sources], axis=1)
    prior, precision = np.array(priors).T
    rows = len(table)
    return fit_logistic(table, np.zeros(rows), truth.ravel(), np.ones(rows), prior, precision)


def _head(
    scaling: Scaling,
    weights: Float64,
    factors: Float64,
    rates: Float64,
    labels: NDArray[np.intp],
    label_count: int,
) -> LinearHead:
    """Put the learned labels between those that keep their zero-shot probability."""
    learned_weights, learned_bias = scaling.undo(weights[:-1], weights[-1] + factors[-1] * rates)
    all_weights = np.zeros((len(learned_weights), label_count), np.float32)
    bias, zero_shot_weight = np.zeros(label_count, np.float32), np.ones(label_count, np.float32)
    is_learned = np.zeros(label_count, np.bool_)
    all_weights[:, labels], bias[labels] = learned_weights, learned_bias
    zero_shot_weight[labels], is_learned[labels] = factors[0], True
    return LinearHead(all_weights, bias, zero_shot_weight, is_learned)
