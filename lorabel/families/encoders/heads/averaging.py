"""The mean of two heads, of which one reads the base model's features and the other an adapter's beside them.

LoRA has seen the examples that the head is fitted on, so their adapted features look easier than those of other
tasks, and the head trusts them too much. The head on the base model's features does not have this fault. The mean
of both is calibrated without more examples; docs/decisions/0023 has figures. The more examples there are, the less
LoRA learns them by heart, and the less the head on the base model's features counts; figures: docs/decisions/0031.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lorabel.families.encoders.heads.linear_head import MEAN, LinearHead

# Up to so many examples, both heads count the same; with more, the base model's counts in inverse proportion.
EQUAL_UNTIL = 160


def mean_with_base(
    head: LinearHead | None, examples: int, fit_base: Callable[[], LinearHead | None]
) -> LinearHead | None:
    """Return a head on both features whose logits are a weighted mean of two heads' logits.

    Args:
        head: fitted on the base model's features and, after them, as many of an adapter.
        examples: on how many it was fitted.
        fit_base: fits the other head, on the base model's features.

    Returns:
        `head` itself if the contents are not fused by their mean: the two heads may then fuse them differently.
    """
    if head is None or head.feature_map != MEAN:
        return head
    base = fit_base()
    if base is None or base.feature_map != MEAN:
        return head
    share = 0.5 * min(1.0, EQUAL_UNTIL / examples)
    weights = (1 - share) * head.weights
    weights[: len(base.weights)] += share * base.weights
    zero_shot_weight = (1 - share) * np.asarray(head.zero_shot_weight) + share * np.asarray(base.zero_shot_weight)
    return replace(
        head,
        weights=weights.astype(np.float32),
        bias=((1 - share) * head.bias + share * base.bias).astype(np.float32),
        zero_shot_weight=zero_shot_weight.astype(np.float32),
    )
