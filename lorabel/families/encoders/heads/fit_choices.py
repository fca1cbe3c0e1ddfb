"""Fits the head of a single choice in closed form: discriminant analyses and regressions, stacked with zero-shot.

Features are centred and divided by their spread. Experts of several strengths are fitted; each scores every
example as if it had not learned from it, and from these scores follows how much each expert and the base model's
own logits count (`weigh`). The sum is linear in the features and calibrated, without held-out examples.
docs/learning.md has its accuracy, and docs/experiments.md what did not work.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from lorabel.families.encoders.heads.experts import Discriminants, Expert, Regressions
from lorabel.families.encoders.heads.linear_head import Array as Floats
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.encoders.heads.stacking import weigh

Array = NDArray[np.float64]

# Strengths of the experts' shrinkage: weak ones for many annotations, strong ones for few or noisy ones.
DISCRIMINANTS = (0.01, 0.1, 1.0, 10.0, 100.0)
RIDGES = (0.1, 1.0)
# Weights without examples and how strongly they are kept (see `weigh`): of an expert of strength 1 or more; of
# zero-shot logits; and of zero-shot logits that do worse than guessing.
EXPERT, TRUSTED, DISTRUSTED = (0.1, 0.1), (1.0, 0.5), (0.05, 0.1)
# Below strength 1, the weight without examples falls with this power of the strength, and a unit of weight costs
# as much more. Where experts score all examples equally well, as on near copies, strong shrinkage wins.
DISCOUNT = 0.2
# Zero-shot logits are distrusted if they are worse than guessing by so much log-likelihood, which is a Bayes
# factor of 7. With less than that, a few unlucky examples would silence them.
LEAST_EVIDENCE = 2.0
# Most examples on which the experts are weighed. More would cost time, and the weights are few.
MOST_JUDGED = 1000
# Of how many examples the mean spread of all features counts in the spread of each. Without it, features that
# happen to be alike in the first two examples would decide.
SPREAD_PRIOR = 3.0
FOLDS = 5
# Zero-shot logits are scaled down to this root mean square, so that one confident mistake does not decide.
ZERO_SHOT_SPREAD = 4.0
TINY = 1e-9
# Scores below this part of what they could be are rounding errors.
VANISHING = 1e-6


def fit_choices(
    features: Floats, zero_shot: Floats, shares: Floats, groups: Sequence[Hashable] | None = None
) -> LinearHead | None:
    """Fit the head to annotated examples. The result is a function of their set: their order does not matter.

    Choices without annotations keep their zero-shot probability, unless zero-shot logits do clearly worse than
    guessing on the annotated examples: then they are learned as well, from no examples.

    Args:
        features: (examples, dim).
        zero_shot: (examples, labels) logits.
        shares: (examples, labels), soft targets; each row sums to 1.
        groups: a name for each example; examples of one group are judged together. None if each stands alone.

    Returns:
        None if fewer than two choices are annotated.
    """
    annotated = shares.sum(0) > 0
    if annotated.sum() < 2:
        return None
    order = np.lexsort((*features.T[:8], *shares.T))
    rows, logits, targets = (part[order].astype(np.float64) for part in (features, zero_shot, shares))
    judged = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_JUDGED)).astype(np.intp))
    space = _Space.of(rows)
    folds = None if groups is None else _folds([groups[index] for index in order])
    experts = _experts(space.coordinates, targets[:, annotated], judged, rows.shape[1], folds)
    zero_shot_scale = min(1.0, ZERO_SHOT_SPREAD / max(_root_mean_square(_centred(logits)), TINY))
    is_credible = _log_likelihood_over_guessing(zero_shot_scale * logits, targets) > -LEAST_EVIDENCE
    is_learned = annotated if is_credible else np.ones_like(annotated)
    scores = [_score(expert, annotated) for expert in experts]
    weights = weigh(
        np.stack([zero_shot_scale * logits[judged], *scores])[:, :, is_learned],
        targets[judged][:, is_learned],
        *np.array([TRUSTED if is_credible else DISTRUSTED, *map(_prior, (*DISCRIMINANTS, *RIDGES))]).T,
    )
    matrix, bias = np.zeros((rows.shape[1], len(annotated))), np.zeros(len(annotated))
    matrix[:, annotated], bias[annotated] = space.linear(
        _centred(sum(weight * expert.weights for weight, expert in zip(weights[1:], experts, strict=True))),
        _centred(sum(weight * expert.bias[None] for weight, expert in zip(weights[1:], experts, strict=True)))[0],
    )
    zero_shot_weight = float(weights[0] * zero_shot_scale)
    return LinearHead(matrix.astype(np.float32), bias.astype(np.float32), zero_shot_weight, is_learned)


@dataclass(frozen=True)
class _Space:
    """The examples, each feature centred and divided by its spread; rotated if they are fewer than the features.

    Args:
        centre: (dim,).
        spread: (dim,), such that the squared lengths of the scaled examples are 1 on average.
        scaled: (examples, dim).
        root: (examples, examples) lower triangle: the scaled examples are `root @ rotation`. None if not rotated.
    """

    centre: Array
    spread: Array
    scaled: Array
    root: Array | None

    @classmethod
    def of(cls, rows: Array) -> Self:
        count, dim = rows.shape
        centre, variances = rows.mean(0), rows.var(0)
        variances = (count * variances + SPREAD_PRIOR * variances.mean()) / (count + SPREAD_PRIOR)
        spread = np.maximum(np.sqrt(dim * variances), TINY)
        scaled = (rows - centre) / spread
        if count >= dim:
            return cls(centre, spread, scaled, None)
        products = scaled @ scaled.T
        return cls(centre, spread, scaled, cholesky(products + TINY * np.eye(count), lower=True))

    @property
    def coordinates(self) -> Array:
        """(examples, dim), or (examples, examples) if rotated."""
        return self.scaled if self.root is None else self.root

    def linear(self, weights: Array, bias: Array) -> tuple[Array, Array]:
        """Return weights, (dim, labels), and bias for features, from those for coordinates."""
        if self.root is not None:
            weights = self.scaled.T @ solve_triangular(self.root, weights, lower=True, trans=1)
        weights = weights / self.spread[:, None]
        return weights, bias - self.centre @ weights


def _experts(
    rows: Array, shares: Array, judged: NDArray[np.intp], dim: int, folds: NDArray[np.intp] | None
) -> list[Expert]:
    """Experts whose scores without an example are centred and of mean square 1, 0 where a label is unknown.

    Args:
        dim: of the features.
        folds: (examples,) an example is judged by what was learned from other folds. None: from all others.
    """
    experts = _fit(rows, shares, judged, dim)
    if folds is None:
        is_known = shares.sum(0) - shares[judged] > TINY
        return [
            _scaled(expert, np.where(is_known, expert.scores_without, np.nan), rows[judged]) for expert in experts
        ]
    scores = np.full((len(experts), *shares.shape), np.nan)
    for fold in np.unique(folds):
        held_out, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        known = np.flatnonzero(shares[rest].sum(0) > TINY)
        if len(known) > 1:
            for position, expert in enumerate(_fit(rows[rest], shares[np.ix_(rest, known)], rest[:0], dim)):
                scores[position][np.ix_(held_out, known)] = rows[held_out] @ expert.weights + expert.bias
    return [_scaled(expert, part[judged], rows[judged]) for expert, part in zip(experts, scores, strict=True)]


def _fit(rows: Array, shares: Array, judged: NDArray[np.intp], dim: int) -> list[Expert]:
    products = rows.T @ rows
    discriminants = Discriminants(rows, shares, judged, products)
    regressions = Regressions(rows, shares, judged, products)
    return [
        *(discriminants.fit(shrinkage, dim) for shrinkage in DISCRIMINANTS),
        *(regressions.fit(strength) for strength in RIDGES),
    ]


def _scaled(expert: Expert, scores: Array, rows: Array) -> Expert:
    """Centre scores that are known, and divide everything by their root mean square.

    Where every label has a single example, no score without the example says anything: all are 0. Then everything
    is divided by the root mean square of the scores with the example.

    Args:
        rows: the judged examples.
    """
    is_known = ~np.isnan(scores)
    means = np.where(is_known, scores, 0.0).sum(1, keepdims=True) / np.maximum(is_known.sum(1, keepdims=True), 1)
    centred = np.where(is_known, scores - means, 0.0)
    with_example = max(_root_mean_square(_centred(rows @ expert.weights + expert.bias)), TINY)
    without = _root_mean_square(centred)
    scale = 1 / (without if without > VANISHING * with_example else with_example)
    return Expert(scale * expert.weights, scale * expert.bias, scale * centred)


def _score(expert: Expert, annotated: NDArray[np.bool_]) -> Array:
    """(judged, labels), 0 for labels without annotations."""
    scores = np.zeros((len(expert.scores_without), len(annotated)))
    scores[:, annotated] = expert.scores_without
    return scores


def _folds(groups: Sequence[Hashable]) -> NDArray[np.intp] | None:
    """A number for each example, the same for all of a group; None if there are no groups of several examples."""
    numbers: dict[Hashable, int] = {}
    of_example = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
    if len(numbers) in (1, len(groups)):
        return None
    folds, sizes = np.zeros(len(numbers), np.intp), np.zeros(min(FOLDS, len(numbers)))
    counts = np.bincount(of_example)
    for number in np.argsort(-counts, kind="stable"):
        folds[number] = sizes.argmin()
        sizes[folds[number]] += counts[number]
    fold_of_example: NDArray[np.intp] = folds[of_example]
    return fold_of_example


def _prior(strength: float) -> tuple[float, float]:
    """Mode and shape (see `weigh`) of the weight of an expert whose shrinkage has this strength."""
    mode, shape = EXPERT
    return mode * min(1.0, strength) ** DISCOUNT, shape


def _log_likelihood_over_guessing(logits: Array, shares: Array) -> float:
    """By how much the logits make the annotated choices more likely than guessing does, in nats."""
    log_probabilities = logits - logits.max(1, keepdims=True)
    log_probabilities = log_probabilities - np.log(np.exp(log_probabilities).sum(1, keepdims=True))
    return float((shares * log_probabilities).sum() + len(logits) * np.log(logits.shape[1]))


def _centred(scores: Array) -> Array:
    centred: Array = scores - scores.mean(1, keepdims=True)
    return centred


def _root_mean_square(scores: Array) -> float:
    return float(np.sqrt(np.square(scores).mean()))
