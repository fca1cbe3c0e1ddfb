"""Decodes spans from the logits of words, and computes the loss of these logits.

For each word and label there are two logits: that a span of the label begins at the word, and that a span of the
label goes on at the word. The logit of "the word is in no span" is fixed at 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lorabel.contracts import Span, SpanScores, SpanTarget
from lorabel.families.spans.word_targets import word_targets

# A span begins at a word if the probability of its label there is at least this.
THRESHOLD = 0.5
# Indices of the two logits.
BEGINS, GOES_ON = 0, 1


def span_scores(logits: Tensor, words: Sequence[tuple[int, int]]) -> SpanScores:
    """Decode the spans of a text. They never overlap, since a word has one label.

    Args:
        logits: (words, 2, labels) float32; BEGINS and GOES_ON are the indices of the middle dimension.
        words: (start, end) of each word, in characters; the end is exclusive.
    """
    if not words:
        return SpanScores(spans=())
    probabilities = _log_probabilities(logits).exp()
    outside, inside = probabilities[:, 0], probabilities[:, 1:].view_as(logits)
    label_probabilities, labels = inside.sum(1).max(1)
    goes_on = (probabilities.argmax(1) == 1 + GOES_ON * logits.shape[2] + labels).tolist()
    spans = []
    first = 0
    while first < len(words):
        end, label = first + 1, int(labels[first])
        if label_probabilities[first] >= THRESHOLD:
            while end < len(words) and goes_on[end] and int(labels[end]) == label:
                end += 1
            probability = float(label_probabilities[first:end].mean())
            spans.append(Span(start=words[first][0], end=words[end - 1][1], label=label, probability=probability))
        first = end
    return SpanScores(spans=tuple(spans), no_span_probability=float(outside.min()))


def span_losses(logits: Tensor, words: Sequence[tuple[int, int]], target: SpanTarget) -> Tensor:
    """Compute the loss of a text: the weighted mean of the words' cross-entropies.

    In a long text most words are outside of spans. If words inside spans are rarer, their weight is the square
    root of how much rarer they are; all other weights are 1.

    Args:
        logits: (words, 2, labels) float32.
        words: (start, end) of each word, in characters; the end is exclusive.

    Returns:
        a scalar, float32; 0 for a text without words.
    """
    truth = torch.from_numpy(word_targets(words, target, logits.shape[2])).to(logits.device)
    losses = -(truth * _log_probabilities(logits)).sum(1)
    inside = 1 - truth[:, 0]
    weights = 1 + inside * (((1 - inside).sum() / inside.sum().clamp(min=1)).sqrt() - 1).clamp(min=0)
    return (weights * losses).sum() / weights.sum().clamp(min=1)


def _log_probabilities(logits: Tensor) -> Tensor:
    """(words, 1 + 2 * labels): columns are the columns of `word_targets`."""
    flat = logits.flatten(1)
    return torch.cat([flat.new_zeros(len(flat), 1), flat], dim=1).log_softmax(1)
