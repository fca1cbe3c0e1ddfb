"""Entities: precision, recall and F1 of spans, as seqeval counts them."""

from collections.abc import Callable, Sequence

from lorabel.evaluation.metrics import Metrics

Span = tuple[int, int, int]


def entities(
    targets: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]], labels: Sequence[str]
) -> Metrics:
    """Precision, recall and F1 of spans `(start, end, label)`, all tasks' together, and per label.

    As seqeval counts: a span is right if start, end and label are. For `overlap_f1` a character in common and the
    same label are enough, each span standing for one other. Where there is nothing to find and nothing was found,
    the figures are 1. `macro_f1` is over the labels that occur in targets or predictions.
    """
    pairs = [(set(truth), set(guess)) for truth, guess in zip(targets, predicted, strict=True)]
    per_class, f1s = {}, []
    for number, label in enumerate(labels):
        own = [
            ({span for span in truth if span[2] == number}, {span for span in guess if span[2] == number})
            for truth, guess in pairs
        ]
        figures = _figures(own)
        per_class[label] = {**figures, "support": sum(len(truth) for truth, _ in own)}
        f1s += [figures["f1"]] if any(truth or guess for truth, guess in own) else []
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
    pairs: Sequence[tuple[set[Span], set[Span]]], count: Callable[[set[Span], set[Span]], int] | None = None
) -> dict[str, float]:
    right = sum(count(truth, guess) if count else len(truth & guess) for truth, guess in pairs)
    wanted, made = sum(len(truth) for truth, _ in pairs), sum(len(guess) for _, guess in pairs)
    if not wanted and not made:
        return {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    return {
        "precision": right / made if made else 0.0,
        "recall": right / wanted if wanted else 0.0,
        "f1": 2 * right / (wanted + made),
    }


def _overlapping(truth: set[Span], guess: set[Span]) -> int:
    """How many pairs there are of a span and another that shares a character and the label with it, from the
    text's beginning on."""
    left = sorted(guess)
    for start, end, label in sorted(truth):
        met = next((span for span in left if span[2] == label and span[0] < end and span[1] > start), None)
        left = [span for span in left if span != met]
    return len(guess) - len(left)
