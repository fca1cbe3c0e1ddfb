"""The metrics are compared with those of seqeval, which counts as CoNLL-2000 does, on random tags."""

import random

import pytest
from seqeval.metrics import classification_report

from lorabel.evaluation.span_metrics import Span, entities

LABELS = ["Person", "City"]


def draw(generator: random.Random) -> list[Span]:
    """Spans of a text of 20 words, each of one character."""
    spans, start = [], 0
    while start < 20:
        length = generator.randint(1, 3)
        if generator.random() < 0.4 and start + length <= 20:
            spans.append((start, start + length, generator.randrange(2)))
        start += length
    return spans


def tags(spans: list[Span]) -> list[str]:
    """The spans as a tag for each word: B- begins a span, I- continues it, O is outside."""
    words = ["O"] * 20
    for start, end, label in spans:
        words[start:end] = [f"B-{LABELS[label]}", *[f"I-{LABELS[label]}"] * (end - start - 1)]
    return words


def test_precision_recall_and_f1_are_those_of_seqeval() -> None:
    generator = random.Random(4)
    truth = [draw(generator) for _ in range(30)]
    guess = [spans if generator.random() < 0.5 else draw(generator) for spans in truth]
    values = entities(truth, guess, LABELS).values
    report = classification_report(list(map(tags, truth)), list(map(tags, guess)), output_dict=True)
    for name, seqeval_name in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
        assert values[name] == pytest.approx(report["micro avg"][seqeval_name])
        for label in LABELS:
            assert values["per_class"][label][name] == pytest.approx(report[label][seqeval_name])
    assert values["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"])
    assert [values["per_class"][label]["support"] for label in LABELS] == [
        report[label]["support"] for label in LABELS
    ]


def test_overlap_counts_each_true_span_for_one_predicted_span() -> None:
    values = entities([[(0, 10, 0), (20, 30, 1)]], [[(0, 4, 0), (5, 10, 0), (20, 30, 0)]], LABELS).values
    assert values["f1"] == 0.0
    assert values["overlap_f1"] == pytest.approx(2 * 1 / 5)


def test_without_true_spans_f1_is_1_if_none_is_predicted_and_0_otherwise() -> None:
    assert entities([[], []], [[], []], LABELS).values["f1"] == 1.0
    assert entities([[], []], [[], [(0, 1, 0)]], LABELS).values["f1"] == 0.0
