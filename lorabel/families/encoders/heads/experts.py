"""Classifiers with a closed form, and what each would have said of an example had it not learned from it.

All are linear: scores are `rows @ weights + bias`. They take soft targets: a row of shares for each example.
Everything is float64, since scores without an example are differences of large numbers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Expert:
    """A fitted linear classifier.

    Args:
        weights: (dim, labels).
        bias: (labels,).
        scores_without: (judged, labels): the scores of the judged examples, each without itself.
    """

    weights: Array
    bias: Array
    scores_without: Array


class Regressions:
    """Ridge regressions of the same examples on their shares; the squares of weights and bias are penalised."""

    def __init__(self, rows: Array, shares: Array, judged: NDArray[np.intp], products: Array) -> None:
        """Prepare what regressions of every strength need.

        Args:
            rows: (examples, dim).
            shares: (examples, labels), each row sums to 1; every label has a share of an example.
            judged: the examples whose scores without themselves are wanted.
            products: (dim, dim) `rows.T @ rows`. It costs more than a fit, and other experts need it, too.
        """
        targets, sums = shares - 1 / shares.shape[1], rows.sum(0)
        self._products = np.block([[products, sums[:, None]], [sums[None], np.full((1, 1), float(len(rows)))]])
        self._with_targets = np.concatenate([rows.T @ targets, targets.sum(0, keepdims=True)])
        self._judged = np.concatenate([rows[judged], np.ones((len(judged), 1))], 1)
        self._targets = targets[judged]

    def fit(self, strength: float) -> Expert:
        """Fit with a penalty of this strength."""
        root = _root(self._products, strength)
        weights = _solve(root, _solve(root, self._with_targets), is_transposed=True)
        leverages = np.square(_solve(root, self._judged.T)).sum(0)[:, None]
        without = (self._judged @ weights - leverages * self._targets) / (1 - leverages)
        return Expert(weights[:-1], weights[-1], without)


class Discriminants:
    """Linear discriminant analyses of the same examples, with means shrunk to the origin and a shrunk scatter."""

    def __init__(self, rows: Array, shares: Array, judged: NDArray[np.intp], products: Array) -> None:
        """As for `Regressions`."""
        self._count, self._judged = len(rows), rows[judged]
        self._shares = shares[judged]
        self._counts = shares.sum(0)
        self._means = shares.T @ rows / self._counts[:, None]
        self._scatter = products - self._means.T @ (self._counts[:, None] * self._means)

    def fit(self, shrinkage: float, dim: int) -> Expert:
        """Fit with the scatter within labels, plus `shrinkage` times as much scatter in every direction.

        Args:
            dim: of the features, which may have been rotated into fewer dimensions.
        """
        root = _root(self._scatter, shrinkage * self._count / dim)
        certainty = self._count * (1 + shrinkage)
        examples = _solve(root, self._judged.T).T
        means = _solve(root, self._means.T).T
        shrunk = means * (self._counts / (self._counts + 1))[:, None]
        weights = certainty * _solve(root, shrunk.T, is_transposed=True)
        bias = -certainty / 2 * np.square(shrunk).sum(1)
        return Expert(weights, bias, certainty * self._scores_without(examples, means))

    def _scores_without(self, examples: Array, means: Array) -> Array:
        """(judged, labels): exact, since an example changes the scatter by as many directions as it has labels.

        Args:
            examples: (judged, dim), and
            means: (labels, dim), both in coordinates in which the shrunk scatter is the identity.
        """
        lengths, products, of_means = np.square(examples).sum(1), examples @ means.T, means @ means.T
        scores = np.empty_like(products)
        sizes = (self._shares > 0).sum(1)
        for size in np.unique(sizes):
            chosen = np.flatnonzero(sizes == size)
            labels = np.argsort(-self._shares[chosen], axis=1, kind="stable")[:, :size]
            scores[chosen] = self._without(chosen, labels, lengths[chosen], products[chosen], of_means)
        return scores

    def _without(
        self, chosen: NDArray[np.intp], labels: NDArray[np.intp], lengths: Array, products: Array, of_means: Array
    ) -> Array:
        """(chosen, labels): `_scores_without` of examples that all have equally many labels.

        Args:
            labels: (chosen, size).
            lengths: (chosen,) squared lengths of the examples.
            products: (chosen, labels) of examples and means.
            of_means: (labels, labels) products of means.
        """
        each = np.arange(len(chosen))[:, None]
        shares, counts = self._shares[chosen][each, labels], self._counts[labels]
        rest = np.maximum(counts - shares, 0)
        own = products[each, labels]
        # What each direction u = example - mean of the label adds to the scatter, and products with u.
        factors = np.divide(shares * counts, rest, out=np.zeros_like(rest), where=rest > 1e-9)
        with_example = lengths[:, None] - own
        with_means = products[:, None, :] - of_means[labels]
        among = (
            lengths[:, None, None]
            - own[:, :, None]
            - own[:, None, :]
            + of_means[labels[:, :, None], labels[:, None, :]]
        )
        # The label's shrunk mean without the example is `scale * mean - part * example`.
        scale = np.tile(self._counts / (self._counts + 1), (len(chosen), 1))
        part = np.zeros_like(scale)
        scale[each, labels], part[each, labels] = counts / (rest + 1), shares / (rest + 1)
        example_shrunk = scale * products - part * lengths[:, None]
        shrunk = scale**2 * np.diag(of_means) - 2 * scale * part * products + part**2 * lengths[:, None]
        directions = scale[:, None, :] * with_means - part[:, None, :] * with_example[:, :, None]
        roots = np.sqrt(factors)
        core = np.eye(labels.shape[1]) - roots[:, :, None] * among * roots[:, None, :]
        scaled = roots[:, :, None] * directions
        solved = np.linalg.solve(core, scaled)
        to_example = np.einsum("is,isl->il", roots * with_example, solved)
        to_itself = np.einsum("isl,isl->il", scaled, solved)
        scores: Array = example_shrunk + to_example - (shrunk + to_itself) / 2
        return scores


def _root(products: Array, added: float) -> Array:
    """Return the lower triangle whose product with its transpose is `products`, with `added` on the diagonal."""
    damped = products.copy()
    damped.flat[:: len(damped) + 1] += added
    return np.asarray(cholesky(damped, lower=True, overwrite_a=True))


def _solve(root: Array, columns: Array, *, is_transposed: bool = False) -> Array:
    # `cholesky` has found all numbers finite, and looking again takes as long as a fifth of the solution.
    return np.asarray(solve_triangular(root, columns, lower=True, trans=int(is_transposed), check_finite=False))
