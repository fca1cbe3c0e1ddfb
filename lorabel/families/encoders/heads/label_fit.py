"""Fits heads of labels, by the fit for single choice, multiple choice or a taxonomy, and computes their loss."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from lorabel.families.encoders.heads.fit_choices import fit_choices
from lorabel.families.encoders.heads.fit_multiple import fit_multiple
from lorabel.families.encoders.heads.fit_taxonomy import fit_taxonomy
from lorabel.families.encoders.heads.fusion_choice import Rows
from lorabel.families.encoders.heads.linear_head import Array, LinearHead, probabilities
from lorabel.families.encoders.heads.ridge import Float64

SMALLEST_PROBABILITY = 1e-6


@dataclass(frozen=True)
class LabelFit:
    """Fits heads of labels, see `HeadFit`. The loss is the cross-entropy; over the labels its sum.

    Args:
        zero_shot: (tasks, labels): the base model's logits.
        shares: (tasks, labels) in [0, 1], see `LabelTarget.shares`.
        parents: see `LabelsInput`.
        is_multiple: see `LabelsInput`.
        groups: (tasks,).
    """

    zero_shot: Array
    shares: Array
    parents: Sequence[int]
    is_multiple: bool
    groups: Sequence[Hashable]

    def fit(self, features: Array, rows: Rows) -> LinearHead | None:
        """Fit a head on some tasks; see `HeadFit.fit`."""
        zero_shot, shares, groups = self.zero_shot[rows], self.shares[rows], [self.groups[row] for row in rows]
        if self.is_multiple:
            return fit_multiple(features, zero_shot, shares, groups)
        if self.parents:
            return fit_taxonomy(features, zero_shot, shares, self.parents, groups)
        return fit_choices(features, zero_shot, shares, groups)

    def losses(self, head: LinearHead | None, features: Array, rows: Rows) -> Float64:
        """Return the cross-entropy of each task; see `HeadFit.losses`."""
        zero_shot, shares = self.zero_shot[rows], self.shares[rows].astype(np.float64)
        scores = probabilities(head, features, zero_shot, self.parents, self.is_multiple)
        losses = -shares * _log(scores)
        if self.is_multiple:
            losses = losses - (1 - shares) * _log(1 - scores)
        return np.asarray(losses.sum(1))


def _log(scores: Array) -> Float64:
    return np.asarray(np.log(np.maximum(scores.astype(np.float64), SMALLEST_PROBABILITY)))
