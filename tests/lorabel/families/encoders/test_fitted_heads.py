"""What every encoder must do with questions for features, and with fitted heads. A new encoder is covered too.

The models are tiny and random. The contents are those of `tests/contents.py`: the first equals the third.
"""

import base64
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lorabel.contracts import (
    Content,
    EmbedInput,
    Input,
    ItemScores,
    LabelScores,
    LabelsInput,
    Modality,
    RankingInput,
    RatingInput,
    SpansInput,
)
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import UnreadableError
from lorabel.families.base import Family, NoBatchAdapters
from lorabel.families.cache import FEATURES, TEXTS, FeatureCache
from lorabel.families.encoders.encoder import Encoder
from lorabel.families.encoders.heads.head_features import CONCAT, feature_count, map_features
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.loading import family_for, family_types
from lorabel.families.token_classifier import TokenClassifier
from lorabel.feature_contracts import Features, FeaturesInput
from lorabel.media.fetching import digest
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from tests.contents import FOUR, made_of, read
from tests.model_server.test_adapters import save_random_adapter

pytestmark = pytest.mark.slow

ENCODERS = [family for family in family_types() if issubclass(family, Encoder)]
LABELS = (("red",), ("blue", "sky"), ("green",))
BANK = NoBatchAdapters()


@pytest.fixture(scope="module", params=ENCODERS, ids=lambda family: family.name)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    torch.manual_seed(0)
    family_type: type[Encoder] = request.param
    source = family_type.tiny(tmp_path_factory.mktemp(family_type.name))
    return family_type.load(source, torch.device("cpu"), torch.float32, Settings())


def contents_of(*modalities: Modality) -> tuple[Content, ...]:
    return tuple(Content(modality=modality, text="to be replaced") for modality in modalities)


def questions(encoder: Encoder, number: int) -> list[Input]:
    """One question of each kind about a content of each modality, from the contents `number` on."""
    contents = contents_of(*sorted(encoder.modalities))
    asked = [
        LabelsInput(contents=contents, labels=LABELS),
        LabelsInput(contents=contents, labels=LABELS, is_multiple=True),
        LabelsInput(contents=contents, labels=LABELS, parents=(-1, 0, 0)),
        RatingInput(contents=contents, minimum=1, maximum=5),
        RankingInput(contents=(contents[0], contents[-1]), item_indices=(0, 1)),
    ]
    return [made_of(question, number) for question in asked]


def prepare(encoder: Encoder, asked: Sequence[Input]) -> list[Any]:
    return [encoder.prepare(question, read) for question in asked]


def rows_of(features: Features) -> np.ndarray:
    return np.frombuffer(base64.b64decode(features.float16), "<f2").reshape(-1, features.dim).astype(np.float32)


def random_head(encoder: Encoder, question: Input, seed: int) -> LinearHead:
    rng = np.random.default_rng(seed)
    outputs = len(question.labels) if isinstance(question, LabelsInput) else 1
    features = feature_count("mean", (), encoder._dim)
    return LinearHead(
        rng.normal(size=(features, outputs)).astype(np.float32),
        rng.normal(size=outputs).astype(np.float32),
        0.5,
        np.ones(outputs, np.bool_),
        kind=question.kind,
        space=f"{encoder.name} {encoder.source}",
    )


def _mixtures() -> list[tuple[Modality, ...]]:
    modalities = sorted(set(Modality) - {Modality.SERIES})  # no encoder of contents reads series
    return [mixture for size in (1, 2, 3) for mixture in itertools.combinations(modalities, size)]


@pytest.mark.parametrize("modalities", _mixtures(), ids="-".join)
def test_features_come_from_the_family_that_answers_the_question(modalities: tuple[Modality, ...]) -> None:
    contents = contents_of(*modalities)
    able = [family for family in ENCODERS if set(modalities) <= family.modalities]
    asked: list[Input] = [
        LabelsInput(contents=contents, labels=LABELS),
        RatingInput(contents=contents),
        RankingInput(contents=contents * 2, item_indices=(0,) * len(contents) + (1,) * len(contents)),
    ]
    for question in asked if able else []:
        assert family_for(FeaturesInput.of(question)) is family_for(question)


def test_features_are_those_of_the_towers_and_come_from_the_cache_the_second_time(encoder: Encoder) -> None:
    cache = FeatureCache({FEATURES: 10**6, TEXTS: 10**6})
    for question in questions(encoder, 0):
        asked = FeaturesInput.of(question)
        (output,) = encoder.predict(prepare(encoder, [asked]), [None], BANK, cache)
        assert isinstance(output, Features) and output.dim == encoder._dim
        assert output.space == f"{encoder.name} {encoder.source}"
        for content, row in zip(asked.contents, rows_of(output), strict=True):
            embed = EmbedInput(contents=(content,))
            (embedding,) = encoder.predict(prepare(encoder, [embed]), [None], BANK, FeatureCache({}))
            vector = np.frombuffer(base64.b64decode(embedding.float16), "<f2")  # type: ignore[attr-defined]
            np.testing.assert_allclose(row, vector, atol=2e-3)
            assert np.linalg.norm(row) == pytest.approx(1, abs=1e-2)
        recalled = encoder.recall(asked, lambda media: digest(read(media)), None, BANK, cache)
        assert recalled is not None and encoder.answer(recalled, None, BANK, cache) == output


def test_the_logits_of_the_features_are_those_behind_the_answer(encoder: Encoder) -> None:
    single, multiple, taxonomy, *others = questions(encoder, 0)
    for question in (single, multiple, taxonomy):
        cache = FeatureCache({})
        features, scores = (
            encoder.predict(prepare(encoder, [asked]), [None], BANK, cache)[0]
            for asked in (FeaturesInput.of(question), question)
        )
        assert isinstance(features, Features) and isinstance(scores, LabelScores)
        logits = torch.tensor(features.logits)
        expected = logits.sigmoid() if question is multiple else logits.softmax(0)
        if question is taxonomy:
            expected = torch.cat([torch.ones(1), logits[1:].softmax(0)])
        torch.testing.assert_close(torch.tensor(scores.probabilities), expected)
    for question in others:
        (features,) = encoder.predict(
            prepare(encoder, [FeaturesInput.of(question)]), [None], BANK, FeatureCache({})
        )
        assert isinstance(features, Features) and features.logits == ()


def test_features_are_computed_with_the_adapter_of_the_row(encoder: Encoder, tmp_path: Path) -> None:
    folders = AdapterFolders(tmp_path)
    fresh = type(encoder).load(encoder.source, torch.device("cpu"), torch.float32, Settings())
    adapter = save_random_adapter(fresh, folders, "p1.v1", 4)
    fresh = type(encoder).load(encoder.source, torch.device("cpu"), torch.float32, Settings())
    bank, asked = AdapterBank(fresh, folders, 10**9), FeaturesInput.of(questions(encoder, 0)[0])
    mixed = fresh.predict(prepare(fresh, [asked] * 3), [None, adapter, None], bank, FeatureCache({}))
    assert mixed[0] == mixed[2]
    assert isinstance(mixed[0], Features) and isinstance(mixed[1], Features)
    assert mixed[0].float16 != mixed[1].float16
    assert mixed[1].logits == pytest.approx(mixed[0].logits, abs=1e-4), "a head adds to the base model's"


def test_without_a_head_every_answer_is_the_same_bit_for_bit(encoder: Encoder) -> None:
    for question in questions(encoder, 1):
        (prepared,) = prepare(encoder, [question])
        cache = FeatureCache({FEATURES: 10**6, TEXTS: 10**6})
        before, without = (
            encoder.predict([asked], [None], BANK, cache)[0]
            for asked in (prepared, encoder.with_head(prepared, None))
        )
        assert without == before
        recalled = encoder.recall(question, lambda media: digest(read(media)), None, BANK, cache)
        assert encoder.answer(encoder.with_head(recalled, None), None, BANK, cache) == before


def test_a_batch_with_heads_of_several_projects_equals_its_rows_and_needs_no_more_of_the_device(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [question for number in range(FOUR) for question in questions(encoder, number)]
    heads = [None if index % 3 == 2 else random_head(encoder, each, index) for index, each in enumerate(asked)]
    plain = prepare(encoder, asked)
    with_heads = [encoder.with_head(each, head) for each, head in zip(plain, heads, strict=True)]
    calls: list[tuple[Modality, int]] = []
    encode = type(encoder).encode

    def counted(self: Encoder, modality: Modality, data: Sequence[Any]) -> torch.Tensor:
        calls.append((modality, len(data)))
        return encode(self, modality, data)

    monkeypatch.setattr(type(encoder), "encode", counted)
    encoder.predict(plain, [None] * len(asked), BANK, FeatureCache({TEXTS: 10**6}))
    calls_without = calls.copy()
    calls.clear()
    mixed = encoder.predict(with_heads, [None] * len(asked), BANK, FeatureCache({TEXTS: 10**6}))
    assert len(calls) <= len(calls_without) and sum(size for _, size in calls) <= sum(s for _, s in calls_without)
    for question, head, output in zip(asked, heads, mixed, strict=True):
        if head is not None:
            features = encoder.predict(
                prepare(encoder, [FeaturesInput.of(question)]), [None], BANK, FeatureCache({})
            )
            np.testing.assert_allclose(_numbers(output), _by_hand(question, head, features[0]), atol=0.03)


def test_a_head_answers_from_the_cache_as_on_the_device(encoder: Encoder) -> None:
    for question in questions(encoder, 2):
        cache, head = FeatureCache({FEATURES: 10**6, TEXTS: 10**6}), random_head(encoder, question, 5)
        (prepared,) = prepare(encoder, [question])
        (output,) = encoder.predict([encoder.with_head(prepared, head)], [None], BANK, cache)
        recalled = encoder.recall(question, lambda media: digest(read(media)), None, BANK, cache)
        assert encoder.answer(encoder.with_head(recalled, head), None, BANK, cache) == output


def test_a_head_on_contents_side_by_side_answers_a_task_that_lacks_one(encoder: Encoder) -> None:
    contents = contents_of(*sorted(encoder.modalities)) * 2
    question = made_of(RatingInput(contents=contents, minimum=1, maximum=5), 0)
    slots = tuple(sorted(content.modality for content in contents))
    size = feature_count(CONCAT, slots, encoder._dim)
    head = replace(
        random_head(encoder, question, 0),
        weights=np.random.default_rng(0).normal(size=(size, 1)).astype(np.float32) / 10,
        feature_map=CONCAT,
        slots=slots,
    )
    fewer = question.model_copy(update={"contents": question.contents[:1]})
    for asked in (question, fewer):
        (prepared,) = prepare(encoder, [asked])
        (output,) = encoder.predict([encoder.with_head(prepared, head)], [None], BANK, FeatureCache({}))
        (features,) = encoder.predict(prepare(encoder, [FeaturesInput.of(asked)]), [None], BANK, FeatureCache({}))
        assert isinstance(features, Features)
        mapped = map_features(CONCAT, slots, [content.modality for content in asked.contents], rows_of(features))
        assert len(mapped) == size
        expected = 3 + float(mapped @ head.weights[:, 0] + head.bias[0])
        assert output.value == pytest.approx(min(5, max(1, expected)), abs=0.02)  # type: ignore[attr-defined]


def test_a_head_of_another_model_or_question_is_refused(encoder: Encoder) -> None:
    single, *_, rating, _ = questions(encoder, 0)
    prepared_single, prepared_rating = prepare(encoder, [single, rating])
    head = random_head(encoder, single, 0)
    encoder.with_head(prepared_single, head)
    for prepared, wrong in (
        (prepared_rating, head),
        (prepared_single, replace(head, space="another model")),
        (prepared_single, replace(head, weights=head.weights[1:])),
    ):
        with pytest.raises(UnreadableError, match="fit it again"):
            encoder.with_head(prepared, wrong)


def test_a_family_without_heads_refuses_one_and_takes_none(tmp_path: Path) -> None:
    family: Family = NoHeads.load(NoHeads.tiny(tmp_path), torch.device("cpu"), torch.float32, Settings())
    question = SpansInput(contents=contents_of(Modality.TEXT), labels=LABELS)
    prepared = family.prepare(question, read)
    assert family.with_head(prepared, None) is prepared
    head = LinearHead(np.zeros((1, 1), np.float32), np.zeros(1, np.float32), 1.0, np.ones(1, np.bool_))
    with pytest.raises(UnreadableError, match="no fitted heads"):
        family.with_head(prepared, head)


class NoHeads(TokenClassifier):
    """A family that leaves `head_dim` to the base class."""

    head_dim = Family.head_dim  # type: ignore[assignment]


def _numbers(output: Any) -> list[float]:
    if isinstance(output, LabelScores):
        return list(output.probabilities)
    return list(output.scores) if isinstance(output, ItemScores) else [output.value]


def _by_hand(question: Input, head: LinearHead, features: Any) -> np.ndarray:
    """The answer as the documentation of `LinearHead` says, from float16 features."""
    rows = rows_of(features)
    if isinstance(question, RankingInput):
        return np.asarray(rows @ head.weights[:, 0] + head.bias)
    fitted = rows.mean(0) @ head.weights + head.bias
    if isinstance(question, RatingInput):
        return np.clip(3 + fitted, 1, 5)
    assert isinstance(question, LabelsInput)
    logits = fitted + 0.5 * np.array(features.logits)
    exponentials = np.exp(logits - logits.max())
    if question.is_multiple:
        return np.asarray(1 / (1 + np.exp(-logits)))
    if question.parents:
        return np.array([1.0, *(exponentials[1:] / exponentials[1:].sum())])
    return np.asarray(exponentials / exponentials.sum())
