"""Prepares the features of several contents for a fit, and puts the fitted head back on the features of the map.

Heads compute with `map_features`. A fit works better on other features that span the same functions:

- each block (the features of a slot, the products of two slots) is centred and scaled to the same spread, so that
  one strength fits all of them;
- the products are those of centred features: what two contents share beyond the mean of their modalities;
- their sum, the covariance of the two contents, is a block of its own. It is the first thing to learn about a
  relation. It is repeated as often as a block has features, since as one number among hundreds it would be shrunk
  away.

Each is a linear function of the features of the map, so `Fusion.unmix` gives weights that compute the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from lorabel.families.encoders.heads.head_features import CONCAT, PRODUCTS
from lorabel.families.encoders.heads.linear_head import MEAN, Array, LinearHead
from lorabel.families.encoders.heads.ridge import Float64, Scaling


@dataclass(frozen=True)
class Fusion:
    """How the features of a fit are made of the contents in the slots.

    Args:
        feature_map: see `lorabel.families.encoders.heads.head_features`.
        slots: see there.
        slot_scalings: of each slot.
        pair_scalings: of the products of each two slots.
        sum_scalings: of the sums of these products.
    """

    feature_map: str
    slots: tuple[str, ...]
    slot_scalings: tuple[Scaling, ...] = ()
    pair_scalings: tuple[Scaling, ...] = ()
    sum_scalings: tuple[Scaling, ...] = ()

    @classmethod
    def of(cls, feature_map: str, slots: tuple[str, ...], contents: Float64) -> "Fusion":
        """Learn the centres and scales from annotated tasks.

        Args:
            contents: (slots, tasks, dim); zeros where a slot is empty. For `mean`: (1, tasks, dim), the means.
        """
        if feature_map == MEAN:
            return cls(feature_map, ())
        scalings = tuple(Scaling.of(rows) for rows in contents)
        if feature_map == CONCAT:
            return cls(feature_map, slots, scalings)
        centred = [rows - scaling.centre for rows, scaling in zip(contents, scalings, strict=True)]
        products = [first * second for first, second in combinations(centred, 2)]
        sums = [rows.sum(1, keepdims=True) for rows in products]
        return cls(feature_map, slots, scalings, tuple(map(Scaling.of, products)), tuple(map(Scaling.of, sums)))

    def mix(self, contents: Float64) -> Array:
        """Return the features of the fit, (tasks, features), of contents as in `of`."""
        if self.feature_map == MEAN:
            return np.asarray(contents[0], np.float32)
        blocks = [scaling.apply(rows) for scaling, rows in zip(self.slot_scalings, contents, strict=True)]
        if self.feature_map == PRODUCTS:
            centred = [rows - s.centre for rows, s in zip(contents, self.slot_scalings, strict=True)]
            products = [first * second for first, second in combinations(centred, 2)]
            blocks += [scaling.apply(rows) for scaling, rows in zip(self.pair_scalings, products, strict=True)]
            blocks += [
                np.repeat(
                    scaling.apply(rows.sum(1, keepdims=True)) / math.sqrt(rows.shape[1]), rows.shape[1], axis=1
                )
                for scaling, rows in zip(self.sum_scalings, products, strict=True)
            ]
        return np.concatenate(blocks, axis=1).astype(np.float32)

    def unmix(self, head: LinearHead) -> LinearHead:
        """Return the head for the features of the map that computes what this one does for features of the fit."""
        if self.feature_map == MEAN:
            return replace(head, feature_map=MEAN, slots=())
        dim = len(self.slot_scalings[0].centre)
        weights, bias = head.weights.astype(np.float64), head.bias.astype(np.float64)
        slot_weights = []
        for index, scaling in enumerate(self.slot_scalings):
            block, bias = scaling.undo(weights[index * dim : (index + 1) * dim], bias)
            slot_weights.append(block)
        pair_weights = []
        for index, (first, second) in enumerate(self._pairs):
            start = (len(self.slots) + index) * dim
            block, bias = self.pair_scalings[index].undo(weights[start : start + dim], bias)
            start += len(self._pairs) * dim
            sum_weights = weights[start : start + dim].sum(0, keepdims=True) / math.sqrt(dim)
            sum_block, bias = self.sum_scalings[index].undo(sum_weights, bias)
            block = block + sum_block
            # (x - mx)(y - my) = xy - my x - mx y + mx my
            x_mean, y_mean = self.slot_scalings[first].centre, self.slot_scalings[second].centre
            slot_weights[first] = slot_weights[first] - y_mean[:, None] * block
            slot_weights[second] = slot_weights[second] - x_mean[:, None] * block
            bias = bias + (x_mean * y_mean) @ block
            pair_weights.append(block / math.sqrt(dim))
        return replace(
            head,
            weights=np.concatenate([*slot_weights, *pair_weights]).astype(np.float32),
            bias=bias.astype(np.float32),
            feature_map=self.feature_map,
            slots=self.slots,
        )

    @property
    def _pairs(self) -> Sequence[tuple[int, int]]:
        """The slots of each of `pair_scalings`."""
        return tuple(combinations(range(len(self.slots)), 2)) if self.feature_map == PRODUCTS else ()
