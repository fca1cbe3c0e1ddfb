import math
from pathlib import Path

import pytest
import torch

from lorabel.contracts import Content, Estimate, Modality, RatingInput, RatingTarget
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.families.cache import FEATURES, TEXTS, FeatureCache
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.heads.base import HeadParameters
from lorabel.families.encoders.heads.rating import RatingHead
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from tests.model_server.test_adapters import save_random_adapter

DIM = 4


def question(minimum: float | None = None, maximum: float | None = None) -> RatingInput:
    return RatingInput(contents=(Content(modality=Modality.TEXT, text="so so"),), minimum=minimum, maximum=maximum)


def basis(place: float, error: float) -> HeadParameters:
    """Whatever the features are, this place on the scale."""
    weights = torch.zeros(DIM + 1, 2)
    weights[-1] = torch.tensor([place, math.log(math.expm1(error))])
    return HeadParameters(torch.empty(0, DIM), weights, 1.0, None)


def estimate(asked: RatingInput, place: float, error: float = 1.0) -> Estimate:
    return RatingHead().output(asked, torch.ones(1, DIM) / DIM**0.5, basis(place, error))


@pytest.mark.parametrize(("place", "value"), [(0, 3), (2, 5), (1, 4), (9, 5), (-9, 1)])
def test_between_bounds_the_scale_has_five_stars_and_no_more(place: float, value: float) -> None:
    assert estimate(question(1, 5), place).value == pytest.approx(value)
    assert estimate(question(0, 100), place).value == pytest.approx(25 * (value - 1))


def test_without_bounds_the_scale_is_logarithmic_and_knows_the_one_bound_there_is() -> None:
    assert estimate(question(), math.log(101)).value == pytest.approx(100)
    assert estimate(question(), -math.log(101)).value == pytest.approx(-100)
    assert estimate(question(minimum=0), -math.log(101)).value == 0
    assert math.isfinite(estimate(question(), 1e6).value or math.inf)


def test_the_error_is_in_the_unit_of_the_answer() -> None:
    assert estimate(question(0, 100), 0, error=0.5).expected_error == pytest.approx(12.5)
    assert estimate(question(), math.log(101), error=0.1).expected_error == pytest.approx(10.1)


@pytest.mark.parametrize("bounds", [(1, 5), (0, 100), (None, None)])
def test_the_loss_is_least_where_the_estimate_is_right(bounds: tuple[float | None, float | None]) -> None:
    asked, targets = question(*bounds), [RatingTarget(value) for value in (2.0, 4.0)]
    contents = torch.ones(2, 1, DIM) / DIM**0.5
    right = estimate(asked, 0.3)
    assert right.value is not None
    losses = RatingHead().losses(asked, contents, basis(0.3, 1e-3), [*targets, RatingTarget(right.value)][1:])
    assert float(losses[1]) == pytest.approx(0, abs=1e-4) and float(losses[0]) > 0.01


def test_nobody_answers_before_the_head_is_taught_and_then_also_from_memory(tmp_path: Path) -> None:
    source, adapter_folders = DualEncoder.tiny(tmp_path / "base"), AdapterFolders(tmp_path / "adapters")
    family = DualEncoder.load(source, torch.device("cpu"), torch.float32, Settings())
    asked = question(1, 5)
    other = save_random_adapter(family, adapter_folders, "p1.v1", 4, sorted(family.tower(Modality.IMAGE)))
    taught = save_random_adapter(family, adapter_folders, "p1.v2", 4, family.trained_layers(asked))
    bank, cache = AdapterBank(family, adapter_folders, 10**9), FeatureCache({FEATURES: 10**6, TEXTS: 10**6})
    example = family.prepare(asked, lambda media: b"")
    names = (None, other, taught)
    answers = family.predict([example] * 3, names, bank, cache)
    assert [answer.value is None for answer in answers] == [True, True, False]
    for name, answer in zip(names, answers, strict=True):
        known = family.recall(asked, lambda media: None, name, bank, cache)
        assert known is not None and family.answer(known, name, bank, cache) == answer
