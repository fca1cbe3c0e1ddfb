"""Heads of spans on drawn word states whose truth the test knows, counted on texts not annotated."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from lorabel.contracts import Content, Modality, SpanScores, SpansInput, SpanTarget
from lorabel.evaluation.span_metrics import entities
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.head_answers import head_word_logits
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.spans.word_spans import span_scores
from lorabel.labeling.words import find_words

DIM = 24
LABELS = (("first",), ("second",), ("never",))


def texts(seed: int, count: int) -> list[Example]:
    """Texts of 12 words. Its state shows, with noise, whether a span begins or goes on at a word."""
    rng = np.random.default_rng(seed)
    examples = []
    for number in range(count):
        length = 12
        text = " ".join(f"w{seed}x{number}y{word}" for word in range(length))
        words, spans = find_words(text), []
        states = rng.normal(size=(length, DIM)) + 2 * np.eye(DIM)[0]
        for start in (0, 4, 8):
            label, size = int(rng.integers(0, 3)), int(rng.integers(1, 4))
            if label < 2:
                spans.append((words[start][0], words[start + size - 1][1], label))
                states[start : start + size] += 7 * np.eye(DIM)[1 + label]
                states[start] += 7 * np.eye(DIM)[3]
        states = (states / np.linalg.norm(states, axis=1, keepdims=True)).astype(np.float32)
        content = Content(modality=Modality.TEXT, text=text)
        question = SpansInput(contents=(content,), labels=LABELS)
        examples.append(Example(question, states, np.empty(0, np.float32), SpanTarget(tuple(spans))))
    return examples


def answer(head: LinearHead, example: Example) -> SpanScores:
    words = find_words(example.question.contents[0].text or "")
    logits = head_word_logits(head, example.features, np.zeros((len(words), 2 * len(LABELS)), np.float32))
    return span_scores(torch.from_numpy(logits).view(len(words), 2, len(LABELS)), words)


def f1(head: LinearHead, test: list[Example]) -> float:
    predicted = [[(span.start, span.end, span.label) for span in answer(head, one).spans] for one in test]
    return float(entities([one.target.spans for one in test], predicted, ["a", "b", "c"]).values["f1"])


def test_a_head_finds_spans_in_texts_that_nobody_annotated() -> None:
    test = texts(1, 60)
    few, many = (fit_head(texts(0, count), "space") for count in (8, 60))
    assert few is not None and many is not None
    assert (many.kind, many.weights.shape) == ("spans", (DIM, 1 + 2 * len(LABELS)))
    assert f1(many, test) > 0.9
    assert f1(few, test) > 0.5


def test_a_label_that_no_text_has_stays_silent() -> None:
    head = fit_head(texts(0, 30), "space")
    assert head is not None
    assert head.is_learned.tolist() == [True, True, True, False, True, True, False]
    assert {span.label for one in texts(2, 40) for span in answer(head, one).spans} == {0, 1}


def test_the_order_of_the_texts_changes_nothing() -> None:
    examples, files = texts(0, 12), set()
    for seed in range(4):
        random.Random(seed).shuffle(examples)
        head = fit_head(examples, "space")
        assert head is not None
        files.add(head.to_bytes())
    assert len(files) == 1


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_texts_have_no_head(count: int) -> None:
    assert fit_head(texts(0, count), "space") is None


def test_texts_without_spans_have_no_head() -> None:
    assert fit_head([replace(one, target=SpanTarget(())) for one in texts(0, 10)], "space") is None


def test_an_adapter_that_knows_the_spans_is_believed() -> None:
    """Its logits come with the examples; the states say nothing here."""
    rng = np.random.default_rng(5)

    def with_adapter(one: Example) -> Example:
        words = find_words(one.question.contents[0].text or "")
        logits = np.full((len(words), 2, len(LABELS)), -4.0, np.float32)
        for start, end, label in one.target.spans:
            inside = [word for word, (first, _) in enumerate(words) if start <= first < end]
            logits[inside[0], 0, label] = 4.0
            logits[inside[1:], 1, label] = 4.0
        states = rng.normal(size=one.features.shape).astype(np.float32) / 5
        return replace(one, features=states, logits=logits.ravel())

    head = fit_head([with_adapter(one) for one in texts(0, 20)], "space")
    assert head is not None
    for one in map(with_adapter, texts(1, 20)):
        words = find_words(one.question.contents[0].text or "")
        logits = head_word_logits(head, one.features, one.logits.reshape(len(words), -1))
        scores = span_scores(torch.from_numpy(logits).view(len(words), 2, len(LABELS)), words)
        assert {(span.start, span.end, span.label) for span in scores.spans} == set(one.target.spans)
