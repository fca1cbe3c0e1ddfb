"""Ridge regression at several strengths from one eigendecomposition, with exact scores of left out groups.

Source of the leave-out formula: Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, 7.10; for
groups, the block of the hat matrix takes the place of its diagonal element.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve

Float64 = NDArray[np.float64]

# Smallest spread that is divided by.
TINY = 1e-12


@dataclass(frozen=True)
class Scaling:
    """Centres features and divides them by the root mean square of their distances from the centre.

    Args:
        centre: (features,).
        scale: a number above 0.
    """

    centre: Float64
    scale: float

    @classmethod
    def of(cls, features: Float64) -> "Scaling":
        """Return the scaling of (rows, features)."""
        centre = features.mean(0)
        spread = float(np.sqrt(np.mean(((features - centre) ** 2).sum(1))))
        return cls(centre, max(spread, TINY))

    def apply(self, features: Float64) -> Float64:
        """Return the scaled features."""
        return (features - self.centre) / self.scale

    def undo(self, weights: Float64, bias: Float64) -> tuple[Float64, Float64]:
        """Turn the weights and bias of a function of scaled features into those of the unscaled ones."""
        unscaled = weights / self.scale
        return unscaled, bias - self.centre @ unscaled


class Ridge:
    """Minimises ||targets - intercept - features @ weights||² + strength * ||weights||².

    Args:
        features: (rows, features); centred if there is an intercept.
        has_intercept: whether the mean of the targets is fitted beside the weights; otherwise the intercept is 0.
            A column of ones makes an intercept that is shrunk like the weights.
    """

    def __init__(self, features: Float64, *, has_intercept: bool = False) -> None:
        self._features = features
        self._mean_share = 1 / len(features) if has_intercept else 0.0
        rows, columns = features.shape
        self._is_dual = rows <= columns
        gram = features @ features.T if self._is_dual else features.T @ features
        values, self._vectors = np.linalg.eigh(gram)
        self._values = np.maximum(values, 0.0)

    def weights(self, targets: Float64, strength: float) -> Float64:
        """Return (features, outputs) for targets of shape (rows, outputs). The intercept is the targets' mean."""
        if self._is_dual:
            solved = self._vectors @ ((self._vectors.T @ targets) / (self._values + strength)[:, None])
            return np.asarray(self._features.T @ solved)
        projected = self._vectors.T @ (self._features.T @ targets)
        return np.asarray(self._vectors @ (projected / (self._values + strength)[:, None]))

    def left_out(self, targets: Float64, strength: float, groups: "Groups") -> Float64:
        """Return (rows, outputs): what is predicted for each row by all rows but those of its group."""
        gains = 1 / (self._values + strength)
        if self._is_dual:
            gains = gains * self._values
        means = self._mean_share * targets.sum(0)
        fitted = means + self._rows @ (gains[:, None] * (self._rows.T @ targets))
        leverages = self._mean_share + np.einsum("rk,k,rk->r", self._rows, gains, self._rows)
        residuals = (targets - fitted) / np.maximum(1 - leverages, TINY)[:, None]
        for group in groups.larger:
            rows = self._rows[group]
            block = np.eye(len(group)) - self._mean_share - (rows * gains) @ rows.T
            residuals[group] = self._solve(block, targets[group] - fitted[group])
        return np.asarray(targets - residuals)

    def _solve(self, block: Float64, targets: Float64) -> Float64:
        """Without an intercept the block is positive definite. Then this takes a thirtieth of the time."""
        if self._mean_share:
            return np.asarray(np.linalg.lstsq(block, targets, rcond=None)[0])
        return np.asarray(solve(block, targets, assume_a="pos"))

    @cached_property
    def _rows(self) -> Float64:
        """(rows, directions): the hat matrix is `rows @ diag(gains) @ rows.T`."""
        return self._vectors if self._is_dual else self._features @ self._vectors


@dataclass(frozen=True)
class Groups:
    """Rows that are left out together.

    Args:
        larger: the rows of each group that has more than one.
    """

    larger: tuple[NDArray[np.int64], ...]

    @classmethod
    def of(cls, keys: Sequence[Hashable]) -> "Groups":
        """Return the groups of rows with equal keys."""
        rows: dict[Hashable, list[int]] = defaultdict(list)
        for row, key in enumerate(keys):
            rows[key].append(row)
        return cls(tuple(np.array(group) for group in rows.values() if len(group) > 1))


def with_intercept(features: Float64) -> Float64:
    """Return the features with a column of ones at the end."""
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)
