"""Heads on features of the base model and of an adapter, side by side. References: each model computed alone."""

import base64

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lorabel.contracts import LabelScores, Modality
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import UnreadableError
from lorabel.families.cache import DECODED, FEATURES, TEXTS, FeatureCache
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.encoders.prepared_input import PreparedContent, PreparedInput
from lorabel.feature_contracts import Features, FeaturesInput, space_with
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from tests.model_server.test_adapters import save_random_adapter
from tests.questions import about_picture

CPU = torch.device("cpu")
QUESTION = about_picture("x", ("a cat", "a rocket"))
DIM = 32


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return DualEncoder.tiny(tmp_path_factory.mktemp("base"))


def load(source: str) -> DualEncoder:
    return DualEncoder.load(source, CPU, torch.float32, Settings())


@pytest.fixture(scope="module")
def folders(source: str, tmp_path_factory: pytest.TempPathFactory) -> AdapterFolders:
    folders = AdapterFolders(tmp_path_factory.mktemp("adapters"))
    family = load(source)
    save_random_adapter(family, folders, "p1.v1", 4, family.content_layers(QUESTION))
    save_random_adapter(family, folders, "p1.v2", 4, sorted(family.label_tower))
    return folders


@pytest.fixture
def family(source: str) -> DualEncoder:
    return load(source)


@pytest.fixture
def bank(family: DualEncoder, folders: AdapterFolders) -> AdapterBank:
    return AdapterBank(family, folders, 10**9)


def new_cache() -> FeatureCache:
    return FeatureCache(dict.fromkeys((DECODED, FEATURES, TEXTS), 10**6))


def pictures(count: int) -> list[PreparedInput]:
    pixels = torch.randint(256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return [
        PreparedInput(QUESTION, (PreparedContent(Modality.IMAGE, picture, digest=str(number)),))
        for number, picture in enumerate(pixels)
    ]


def rows(features: Features) -> NDArray[np.float16]:
    return np.frombuffer(base64.b64decode(features.float16), "<f2").reshape(-1, features.dim)


def ask_for_features(
    family: DualEncoder, bank: AdapterBank, inputs: list[PreparedInput], adapters: list[str | None]
) -> list[Features]:
    answers = family.predict([family.for_features(row, None) for row in inputs], adapters, bank, new_cache())
    return [answer for answer in answers if isinstance(answer, Features)]


def test_features_with_an_adapter_are_the_base_models_beside_the_adapters(
    family: DualEncoder, bank: AdapterBank
) -> None:
    (picture,) = pictures(1)
    (base,) = ask_for_features(family, bank, [picture], [None])
    (both,) = ask_for_features(family, bank, [picture], ["p1.v1/label"])
    adapted = family.add_features([picture], ["p1.v1/label"], bank, new_cache())[0].contents[0].features
    assert adapted is not None
    assert (base.dim, both.dim) == (DIM, 2 * DIM)
    np.testing.assert_allclose(rows(both)[:, :DIM], rows(base), atol=1e-3)
    np.testing.assert_allclose(rows(both)[0, DIM:], adapted[0].numpy(), atol=1e-3)
    assert np.abs(rows(both)[0, DIM:] - rows(base)[0]).max() > 0.05, "the adapter changes the features"
    assert both.logits == pytest.approx(base.logits, abs=1e-4), "a head adds to the base model's logits"
    assert both.space == space_with(base.space, "p1.v1/label"), "features of two adapters are never mixed"


def test_an_adapter_of_the_label_tower_changes_nothing_that_a_head_is_fitted_on(
    family: DualEncoder, bank: AdapterBank
) -> None:
    (picture,) = pictures(1)
    assert ask_for_features(family, bank, [picture], ["p1.v2/label"]) == ask_for_features(
        family, bank, [picture], [None]
    )


def test_rows_with_and_without_an_adapter_share_a_batch(family: DualEncoder, bank: AdapterBank) -> None:
    inputs, adapters = pictures(3), ["p1.v1/label", None, "p1.v1/label"]
    mixed = ask_for_features(family, bank, inputs, adapters)
    for answer, prepared, adapter in zip(mixed, inputs, adapters, strict=True):
        (alone,) = ask_for_features(family, bank, [prepared], [adapter])
        np.testing.assert_allclose(rows(answer), rows(alone), atol=1e-3)


def head_on(space: str, dim: int) -> LinearHead:
    weights = np.random.default_rng(0).normal(size=(dim, 2)).astype(np.float32)
    return LinearHead(weights, np.zeros(2, np.float32), 1.0, np.ones(2, bool), kind="labels", space=space)


def test_a_head_on_both_answers_from_the_device_and_from_the_cache(family: DualEncoder, bank: AdapterBank) -> None:
    (picture,), cache = pictures(1), new_cache()
    (both,) = ask_for_features(family, bank, [picture], ["p1.v1/label"])
    head = head_on(both.space, both.dim)
    logits = head.logits(rows(both).astype(np.float32), np.array([both.logits], np.float32))[0]
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    asked = family.with_head(picture, head, "p1.v1/label", bank)
    assert asked is not None
    (computed,) = family.predict([asked], ["p1.v1/label"], bank, cache)
    assert isinstance(computed, LabelScores)
    assert computed.probabilities == pytest.approx(tuple(expected), abs=0.01)
    recalled = family.recall(QUESTION, lambda media: "0", "p1.v1/label", bank, cache)
    assert recalled is not None
    asked = family.with_head(recalled, head, "p1.v1/label", bank)
    assert asked is not None
    assert family.answer(asked, "p1.v1/label", bank, cache) == computed


def test_what_the_cache_lacks_for_a_head_is_read_again(family: DualEncoder, bank: AdapterBank) -> None:
    """The adapter's features are there, the base model's and the picture are not."""
    (picture,), cache = pictures(1), FeatureCache({FEATURES: 10**6, TEXTS: 10**6})
    family.predict([picture], ["p1.v1/label"], bank, cache)
    recalled = family.recall(QUESTION, lambda media: "0", "p1.v1/label", bank, cache)
    assert recalled is not None, "without a head the adapter's features are enough"
    (both,) = ask_for_features(family, bank, [picture], ["p1.v1/label"])
    assert family.with_head(recalled, head_on(both.space, both.dim), "p1.v1/label", bank) is None
    assert family.recall(FeaturesInput.of(QUESTION), lambda media: "0", "p1.v1/label", bank, cache) is None


@pytest.mark.parametrize("adapter", [None, "p1.v2/label"])
def test_a_head_on_both_is_refused_without_its_adapter(
    family: DualEncoder, bank: AdapterBank, adapter: str | None
) -> None:
    (picture,) = pictures(1)
    head = head_on(space_with(f"{family.name} {family.source}", "p1.v1/label"), 2 * DIM)
    with pytest.raises(UnreadableError, match="was fitted on features of"):
        family.with_head(picture, head, adapter, bank)
