"""What the probabilities of labels say, whichever problem asked: which answers exclude each other, which of them
are right, how far the best is ahead, and the same with another certainty.

`parents` are those of `LabelsInput`: labels with the same one exclude each other, unless several may fit.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Sequence

LEAST = 1e-12


def siblings(parents: Sequence[int]) -> list[list[int]]:
    """The labels' indices by their parent."""
    groups: dict[int, list[int]] = defaultdict(list)
    for index, parent in enumerate(parents):
        groups[parent].append(index)
    return list(groups.values())


def distributions(
    probabilities: Sequence[float], parents: Sequence[int], is_multiple: bool
) -> list[tuple[float, ...]]:
    """One for each set of siblings; if several labels may fit, (not, fits) for each label."""
    if is_multiple:
        return [(1 - one, one) for one in probabilities]
    return [tuple(probabilities[i] for i in group) for group in siblings(parents)]


def right_answers(indices: Collection[int], parents: Sequence[int], is_multiple: bool) -> list[int | None]:
    """The place in each of `distributions` of what is right; None where nothing is, as below a wrong label."""
    if is_multiple:
        return [int(i in indices) for i in range(len(parents))]
    return [next((group.index(i) for i in group if i in indices), None) for group in siblings(parents)]


def margin(found: Sequence[Sequence[float]]) -> float:
    """How far the best answer is ahead of the next, in [0, 1]; of several distributions the mean."""
    leads = [best - second for best, second in (sorted((*one, 0.0), reverse=True)[:2] for one in found)]
    return sum(leads) / len(leads)


def tempered(distribution: Sequence[float], temperature: float) -> tuple[float, ...]:
    """The softmax of the logits divided by the temperature, without the logits: p^(1/T), to the sum 1. The order
    of the answers stays. https://arxiv.org/abs/1706.04599"""
    logits = [math.log(max(one, LEAST)) / temperature for one in distribution]
    shares = [math.exp(one - max(logits)) for one in logits]
    return tuple(share / sum(shares) for share in shares)


def tempered_scores(
    probabilities: Sequence[float], parents: Sequence[int], is_multiple: bool, temperature: float
) -> tuple[float, ...]:
    """Each distribution tempered, in the order of the labels."""
    if is_multiple:
        return tuple(tempered((1 - one, one), temperature)[1] for one in probabilities)
    scores = [0.0] * len(probabilities)
    for group in siblings(parents):
        for index, one in zip(group, tempered([probabilities[i] for i in group], temperature), strict=True):
            scores[index] = one
    return tuple(scores)
