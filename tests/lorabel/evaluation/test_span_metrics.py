"""Against seqeval, the field's own counting (CoNLL-2000's), on random tags."""

import random

import pytest
from seqeval.metrics import classification_report

from lorabel.evaluation.span_metrics import Span, entities

LABELS = ["Person", "City"]


def draw(dice: random.Random) -> list[Span]:
    """Spans of a text of 20 words, each of one character."""
    spans, start = [], 0
    while start < 20:
        length = dice.randint(1, 3)
        if dice.random() < 0.4 and start + length <= 20:
            spans.append((start, start + length, dice.randrange(2)))
        start += length
    return spans


def tags(spans: list[Span]) -> list[str]:
    made = ["O"] * 20
    for start, end, label in spans:
        made[start:end] = [f"B-{LABELS[label]}", *[f"I-{LABELS[label]}"] * (end - start - 1)]
    return made


def test_the_figures_are_seqevals() -> None:
    dice = random.Random(4)
    truth = [draw(dice) for _ in range(30)]
    guess = [spans if dice.random() < 0.5 else draw(dice) for spans in truth]
    found = entities(truth, guess, LABELS).values
    report = classification_report(list(map(tags, truth)), list(map(tags, guess)), output_dict=True)
    for name, seqevals in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
        assert found[name] == pytest.approx(report["micro avg"][seqevals])
        for label in LABELS:
            assert found["per_class"][label][name] == pytest.approx(report[label][seqevals])
    assert found["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"])
    assert [found["per_class"][label]["support"] for label in LABELS] == [report[one]["support"] for one in LABELS]


def test_overlap_counts_each_span_for_one_other() -> None:
    found = entities([[(0, 10, 0), (20, 30, 1)]], [[(0, 4, 0), (5, 10, 0), (20, 30, 0)]], LABELS).values
    assert found["f1"] == 0.0
    assert found["overlap_f1"] == pytest.approx(2 * 1 / 5)


def test_nothing_to_find_and_nothing_found_is_right_and_anything_found_is_wrong() -> None:
    assert entities([[], []], [[], []], LABELS).values["f1"] == 1.0
    assert entities([[], []], [[], [(0, 1, 0)]], LABELS).values["f1"] == 0.0
