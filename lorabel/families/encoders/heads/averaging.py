"""The mean of two heads, of which one reads the base model's features and the other an adapter's beside them.

LoRA has seen the examples that the head is fitted on, so their adapted features look easier than those of other
tasks, and the head trusts them too much. The head on the base model's features does not have this fault. The mean
of both is calibrated without more examples; docs/decisions/0023 has figures.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lorabel.families.encoders.heads.linear_head import MEAN, LinearHead


def mean_with_base(head: LinearHead | None, fit_base: Callable[[], LinearHead | None]) -> LinearHead | None:
    """Return a head on both features whose logits are the mean of two heads' logits.

    Args:
        head: fitted on the base model's features and, after them, as many of an adapter.
        fit_base: fits the other head, on the base model's features.

    Returns:
        `head` itself if the contents are not fused by their mean: the two heads may then fuse them differently.
    """
    if head is None or head.feature_map != MEAN:
        return head
    base = fit_base()
    if base is None or base.feature_map != MEAN:
        return head
    weights = head.weights / 2
    weights[: len(base.weights)] += base.weights / 2
    zero_shot_weight = (np.asarray(head.zero_shot_weight) + np.asarray(base.zero_shot_weight)) / 2
    return replace(
        head,
        weights=weights.astype(np.float32),
        bias=((head.bias + base.bias) / 2).astype(np.float32),
        zero_shot_weight=zero_shot_weight.astype(np.float32),
    )
