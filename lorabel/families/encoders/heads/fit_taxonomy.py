"""Fits the head of a taxonomy level by level: the children of each parent are a single choice of their own.

A parent learns from the tasks whose path goes through it and on to one of its children. If all of these tasks go
on to the same child, the parent learns how usual this child is. A parent without such tasks keeps its zero-shot
probabilities.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from lorabel.families.encoders.heads.factors import fit_logistic
from lorabel.families.encoders.heads.fit_choices import fit_choices
from lorabel.families.encoders.heads.linear_head import Array, LinearHead

# What the factors of zero-shot and of how usual a child is start from, and how strongly they are held there.
USUALNESS = (np.array([1.0, 0.0]), np.array([1.0, 4.0]))


def fit_taxonomy(
    features: Array,
    zero_shot: Array,
    shares: Array,
    parents: Sequence[int],
    groups: Sequence[Hashable] | None = None,
) -> LinearHead | None:
    """Fit the head; None if no two tasks take different paths.

    Args:
        features: (tasks, features).
        zero_shot: (tasks, labels): the base model's logits.
        shares: (tasks, labels) in [0, 1], see `LabelTarget.shares`.
        parents: (labels,), see `LabelsInput.parents`.
        groups: (tasks,): tasks that are left out together; None: each alone.
    """
    label_count = shares.shape[1]
    weights = np.zeros((features.shape[1], label_count), np.float32)
    bias, zero_shot_weight = np.zeros(label_count, np.float32), np.ones(label_count, np.float32)
    is_learned, is_one_path = np.zeros(label_count, np.bool_), True
    for parent in sorted(set(parents)):
        children = np.flatnonzero(np.array(parents) == parent)
        reached = shares[:, children].sum(1)
        tasks = np.flatnonzero(reached > 0)
        if len(children) == 1 or not len(tasks):
            continue
        logits = zero_shot[np.ix_(tasks, children)]
        child_shares = shares[np.ix_(tasks, children)] / reached[tasks, None]
        chosen = np.flatnonzero(child_shares.max(0) > 0)
        if len(chosen) == 1:
            zero_shot_weight[children], bias[children[chosen]] = _usualness(logits, int(chosen[0]))
            is_learned[children] = True
            continue
        child_groups = None if groups is None else [groups[task] for task in tasks]
        head = fit_choices(features[tasks], logits, child_shares, child_groups)
        if head is not None:
            is_one_path = False
            weights[:, children], bias[children] = head.weights, head.bias
            zero_shot_weight[children], is_learned[children] = head.zero_shot_weight, head.is_learned
    return None if is_one_path else LinearHead(weights, bias, zero_shot_weight, is_learned)


def _usualness(logits: Array, chosen: int) -> tuple[float, float]:
    """How much zero-shot logits count, and what the logit of the only child that was chosen gains.

    The gain is e * log(1 + tasks). Both factors are fitted on left out tasks.

    Args:
        logits: (tasks, children).
    """
    tasks = len(logits)
    leads = logits[:, chosen] - _log_sum_exp(np.delete(logits, chosen, axis=1))
    sources = np.stack([leads.astype(np.float64), np.full(tasks, np.log(float(tasks)))], axis=1)
    zero_shot_weight, factor = fit_logistic(sources, np.zeros(tasks), np.ones(tasks), np.ones(tasks), *USUALNESS)
    return float(zero_shot_weight), float(factor * np.log1p(tasks))


def _log_sum_exp(logits: Array) -> Array:
    highest = logits.max(1)
    return np.asarray(highest + np.log(np.exp(logits - highest[:, None]).sum(1)), np.float32)
