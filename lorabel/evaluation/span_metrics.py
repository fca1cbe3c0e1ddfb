"""Precision, recall and F1 of labeled spans of a text (named entities), counted as seqeval does."""

from collections.abc import Callable, Sequence

from lorabel.evaluation.metrics import Metrics

# Start, end (exclusive), index of the label.
Span = tuple[int, int, int]


def entities(
    targets: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]], labels: Sequence[str]
) -> Metrics:
    """Precision, recall and F1 of the spans of all tasks together, and for each label.

    As in seqeval, a predicted span is right if its start, end and label are right. For `overlap_f1` it is enough
    that it has the label of a true span and a character in common with it; each true span counts for at most one
    predicted span. All of them are 1 where no span is true and none was predicted. `macro_f1` is over the labels
    that occur in targets or predictions.

    Args:
        targets: the true spans of each task.
        predicted: the predicted spans of each task.
    """
    pairs = [(set(truth), set(guess)) for truth, guess in zip(targets, predicted, strict=True)]
    per_class, f1s = {}, []
    for index, label in enumerate(labels):
        label_pairs = [
            ({span for span in truth if span[2] == index}, {span for span in guess if span[2] == index})
            for truth, guess in pairs
        ]
        figures = _figures(label_pairs)
        per_class[label] = {**figures, "support": sum(len(truth) for truth, _ in label_pairs)}
        f1s += [figures["f1"]] if any(truth or guess for truth, guess in label_pairs) else []
    return Metrics(
        "f1",
        {
            "tasks": len(targets),
            **_figures(pairs),
            "macro_f1": sum(f1s) / len(f1s) if f1s else 1.0,
            "overlap_f1": _figures(pairs, _overlapping)["f1"],
            "per_class": per_class,
            "labels": list(labels),
        },
    )


def _figures(
    pairs: Sequence[tuple[set[Span], set[Span]]], count_right: Callable[[set[Span], set[Span]], int] | None = None
) -> dict[str, float]:
    """Precision, recall and F1 of (true spans, predicted spans) of each task; equal spans are right by default."""
    right = sum(count_right(truth, guess) if count_right else len(truth & guess) for truth, guess in pairs)
    true_spans, predicted_spans = sum(len(truth) for truth, _ in pairs), sum(len(guess) for _, guess in pairs)
    if not true_spans and not predicted_spans:
        return {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    return {
        "precision": right / predicted_spans if predicted_spans else 0.0,
        "recall": right / true_spans if true_spans else 0.0,
        "f1": 2 * right / (true_spans + predicted_spans),
    }


def _overlapping(truth: set[Span], guess: set[Span]) -> int:
    """Count predicted spans that overlap a true span of the same label.

    The true spans are taken in the order of the text, and each takes the first predicted span that is left.
    """
    unmatched = sorted(guess)
    for start, end, label in sorted(truth):
        match = next((span for span in unmatched if span[2] == label and span[0] < end and span[1] > start), None)
        unmatched = [span for span in unmatched if span != match]
    return len(guess) - len(unmatched)
