"""From words' logits to spans, and how wrong they were.

For each word the model says how much a span of each label begins there, and how much one goes on; against both
stands, with a logit of 0, that the word is in no span.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from lorabel.contracts import Span, SpanScores, SpanTarget

# Of a label's probability in a word, for a span of it to begin.
THRESHOLD = 0.5
BEGINS, GOES_ON = 0, 1


def span_scores(logits: Tensor, words: Sequence[tuple[int, int]]) -> SpanScores:
    """Of one text. No two spans overlap, since a word has one label.

    Args:
        logits: (words, 2, labels), see BEGINS and GOES_ON.
        words: where each stands, in characters.
    """
    if not words:
        return SpanScores(spans=())
    shares = _log_shares(logits).exp()
    outside, inside = shares[:, 0], shares[:, 1:].view_as(logits)
    certainty, labels = inside.sum(1).max(1)
    goes_on = (shares.argmax(1) == 1 + GOES_ON * logits.shape[2] + labels).tolist()
    spans = []
    first = 0
    while first < len(words):
        end, label = first + 1, int(labels[first])
        if certainty[first] >= THRESHOLD:
            while end < len(words) and goes_on[end] and int(labels[end]) == label:
                end += 1
            probability = float(certainty[first:end].mean())
            spans.append(Span(start=words[first][0], end=words[end - 1][1], label=label, probability=probability))
        first = end
    return SpanScores(spans=tuple(spans), no_span_probability=float(outside.min()))


def span_losses(logits: Tensor, words: Sequence[tuple[int, int]], target: SpanTarget) -> Tensor:
    """A figure: cross-entropy, the words' mean.

    Most words of a long text are in no span; those that are weigh more by the root of how much rarer they are.

    Args:
        logits: (words, 2, labels).
    """
    truth = _truth(words, target, logits.shape[2]).to(logits.device)
    each = -(truth * _log_shares(logits)).sum(1)
    inside = 1 - truth[:, 0]
    weights = 1 + inside * (((1 - inside).sum() / inside.sum().clamp(min=1)).sqrt() - 1).clamp(min=0)
    return (weights * each).sum() / weights.sum().clamp(min=1)


def _log_shares(logits: Tensor) -> Tensor:
    """(words, 1 + 2 * labels): of being in no span, of beginning one of each label, of going on with one."""
    flat = logits.flatten(1)
    return torch.cat([flat.new_zeros(len(flat), 1), flat], dim=1).log_softmax(1)


def _truth(words: Sequence[tuple[int, int]], target: SpanTarget, labels: int) -> Tensor:
    """As `_log_shares`. A word is in the span that has most of it; of several alike it is in each by its share."""
    starts, ends = [start for start, _ in words], [end for _, end in words]
    claims: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for start, end, label in target.spans:
        first = bisect_right(ends, start)
        for place in range(first, bisect_left(starts, end)):
            common = min(end, ends[place]) - max(start, starts[place])
            claims[place][common].append(1 + label + (labels if place > first else 0))
    truth = torch.zeros(len(words), 1 + 2 * labels)
    truth[:, 0] = 1.0
    for place, found in claims.items():
        chosen = found[max(found)]
        truth[place, 0] = 0.0
        for column in chosen:
            truth[place, column] += 1 / len(chosen)
    return truth
