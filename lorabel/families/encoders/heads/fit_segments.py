"""Fits the head of segments: for each window of a sound and each label whether it fits. NumPy only.

It is the head of multiple choice, fitted on windows. Those of a sound are left out together, since windows of one
sound overlap and are alike.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from lorabel.families.encoders.heads.fit_multiple import fit_multiple
from lorabel.families.encoders.heads.linear_head import Array, LinearHead
from lorabel.families.segments.sound_windows import window_shares
from lorabel.time_contracts import SegmentTarget


@dataclass(frozen=True)
class AnnotatedSound:
    """A sound as a head learns from it.

    Args:
        features: (windows, dim).
        zero_shot: (windows, labels): the base model's logits.
        group: sounds with the same group are left out together.
    """

    features: Array
    zero_shot: Array
    target: SegmentTarget
    group: Hashable


def fit_segments(sounds: Sequence[AnnotatedSound]) -> LinearHead | None:
    """Fit the head; None if no sound has a segment, or there are fewer than two sounds."""
    if len({sound.group for sound in sounds}) < 2:
        return None
    shares = [window_shares(sound.target, *sound.zero_shot.shape) for sound in sounds]
    groups = [sound.group for sound in sounds for _ in sound.features]
    return fit_multiple(
        np.concatenate([sound.features for sound in sounds]),
        np.concatenate([sound.zero_shot for sound in sounds]),
        np.concatenate(shares),
        groups,
    )
