"""What differs on a GPU. No test needs one: devices are faked, or batches are filled up on the CPU as well."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lorabel.contracts import Modality
from lorabel.families.base import NoBatchAdapters
from lorabel.families.cache import FeatureCache
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders import content_encoder
from lorabel.families.encoders.prepared_input import PreparedContent, PreparedInput, filled_up
from lorabel.settings import Settings
from tests.questions import about_picture

CPU, GPU = torch.device("cpu"), torch.device("cuda")
QUESTION = about_picture("x", ("a cat", "a rocket"))


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> DualEncoder:
    torch.manual_seed(0)
    return DualEncoder.load(
        DualEncoder.tiny(Path(tmp_path_factory.mktemp("base"))), CPU, torch.float32, Settings()
    )


def pictures(count: int) -> list[PreparedInput]:
    pixels = torch.randint(256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return [PreparedInput(QUESTION, (PreparedContent(Modality.IMAGE, picture),)) for picture in pixels]


def features_of(prepared: PreparedInput) -> torch.Tensor:
    features = prepared.contents[0].features
    assert features is not None
    return features


def test_features_that_were_precomputed_on_a_gpu_come_back_to_the_cpu(family: DualEncoder) -> None:
    with FakeTensorMode():
        content = PreparedContent(Modality.IMAGE, features=torch.empty(1, 32, device="cuda"))
        prepared = PreparedInput(QUESTION, (content,))
        (with_features,) = family.add_features([prepared], [None], NoBatchAdapters(), FeatureCache({}))
    assert features_of(with_features).device == CPU


@pytest.mark.parametrize(("length", "expected"), [(1, 1), (2, 2), (3, 4), (5, 8), (33, 50), (50, 50)])
def test_batches_on_a_gpu_are_filled_up_to_powers_of_two(length: int, expected: int) -> None:
    batch = list(range(length))
    filled = filled_up(batch, 50, GPU)
    assert filled == [*batch, *[length - 1] * (expected - length)]
    assert filled_up(batch, 50, CPU) == batch


def test_filling_up_changes_no_features(family: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    def filled_up_and_noted(batch: Sequence[Any], size: int, device: torch.device) -> Sequence[Any]:
        filled = filled_up(batch, size, GPU)
        lengths.append(len(filled))
        return filled

    def answers() -> list[torch.Tensor]:
        inputs = [replace(prepared) for prepared in pictures(3)]
        predicted = family.add_features(inputs, [None] * 3, NoBatchAdapters(), FeatureCache({}))
        trained = family.trained_layers(QUESTION)
        views = family.precompute(inputs, trained, torch.Generator().manual_seed(2))
        return [features_of(prepared) for prepared in (*predicted, *views)]

    expected = answers()
    monkeypatch.setattr(content_encoder, "filled_up", filled_up_and_noted)
    torch.testing.assert_close(answers(), expected)
    assert lengths == [4, 16]
