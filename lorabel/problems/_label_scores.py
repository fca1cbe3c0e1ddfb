"""Calculations on the probabilities of labels, for every problem whose output is `LabelScores`.

`parents` is the field of `LabelsInput`, one entry per label: labels with the same parent exclude each other. With
`is_multiple` any number of labels may fit, so each label is a distribution of its own: (does not fit, fits).
"""

import math
from collections.abc import Collection, Sequence

from lorabel.labeling.taxonomy import labels_below

SMALLEST_PROBABILITY = 1e-12


def siblings(parents: Sequence[int]) -> list[tuple[int, ...]]:
    """Group the indices of the labels by their parent, in the order of the labels."""
    return list(labels_below(parents).values())


def distributions(
    probabilities: Sequence[float], parents: Sequence[int], is_multiple: bool
) -> list[tuple[float, ...]]:
    """Return a distribution for each group of siblings, or (does not fit, fits) for each label if multiple."""
    if is_multiple:
        return [(1 - probability, probability) for probability in probabilities]
    return [tuple(probabilities[i] for i in group) for group in siblings(parents)]


def true_indices(indices: Collection[int], parents: Sequence[int], is_multiple: bool) -> list[int | None]:
    """Return the index of the right class in each of `distributions`.

    None stands for siblings of which none is right, such as those below a wrong label.

    Args:
        indices: the right labels, see `LabelTarget`.
    """
    if is_multiple:
        return [int(i in indices) for i in range(len(parents))]
    return [next((group.index(i) for i in group if i in indices), None) for group in siblings(parents)]


def margin(label_distributions: Sequence[Sequence[float]]) -> float:
    """Return the difference between the two highest probabilities, in [0, 1]; the mean over the distributions."""
    highest_two = [sorted((*distribution, 0.0), reverse=True)[:2] for distribution in label_distributions]
    return sum(best - second for best, second in highest_two) / len(highest_two)


def tempered(distribution: Sequence[float], temperature: float) -> tuple[float, ...]:
    """Apply temperature scaling to a distribution (https://arxiv.org/abs/1706.04599).

    Logits are not needed: p^(1/T), normalised to the sum 1, is the softmax of the logits divided by T. The order
    of the classes does not change.
    """
    logits = [math.log(max(probability, SMALLEST_PROBABILITY)) / temperature for probability in distribution]
    exponentials = [math.exp(logit - max(logits)) for logit in logits]
    return tuple(exponential / sum(exponentials) for exponential in exponentials)


def tempered_scores(
    probabilities: Sequence[float], parents: Sequence[int], is_multiple: bool, temperature: float
) -> tuple[float, ...]:
    """Apply temperature scaling to each of `distributions`; the result is in the order of the labels."""
    if is_multiple:
        return tuple(tempered((1 - probability, probability), temperature)[1] for probability in probabilities)
    scores = [0.0] * len(probabilities)
    for group in siblings(parents):
        group_scores = tempered([probabilities[i] for i in group], temperature)
        for index, score in zip(group, group_scores, strict=True):
            scores[index] = score
    return tuple(scores)
