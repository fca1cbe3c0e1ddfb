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


def parameters(position: float, error: float) -> HeadParameters:
    """Parameters with which every content gets this position on the internal scale, and this expected error."""
    weights = torch.zeros(DIM + 1, 2)
    weights[-1] = torch.tensor([position, math.log(math.expm1(error))])
    return HeadParameters(torch.empty(0, DIM), weights, 1.0, None)


def estimate(rating_input: RatingInput, position: float, error: float = 1.0) -> Estimate:
    return RatingHead().output(rating_input, torch.ones(1, DIM) / DIM**0.5, parameters(position, error))


@pytest.mark.parametrize(("position", "value"), [(0, 3), (2, 5), (1, 4), (9, 5), (-9, 1)])
def test_between_bounds_the_internal_scale_has_five_stars(position: float, value: float) -> None:
    assert estimate(question(1, 5), position).value == pytest.approx(value)
    assert estimate(question(0, 100), position).value == pytest.approx(25 * (value - 1))


def test_without_two_bounds_the_internal_scale_is_logarithmic_and_a_single_bound_is_kept() -> None:
    assert estimate(question(), math.log(101)).value == pytest.approx(100)
    assert estimate(question(), -math.log(101)).value == pytest.approx(-100)
    assert estimate(question(minimum=0), -math.log(101)).value == 0
    assert math.isfinite(estimate(question(), 1e6).value or math.inf)


def test_the_error_is_in_the_unit_of_the_answer() -> None:
    assert estimate(question(0, 100), 0, error=0.5).expected_error == pytest.approx(12.5)
    assert estimate(question(), math.log(101), error=0.1).expected_error == pytest.approx(10.1)


@pytest.mark.parametrize("bounds", [(1, 5), (0, 100), (None, None)])
def test_the_loss_is_least_where_the_estimate_is_right(bounds: tuple[float | None, float | None]) -> None:
    rating_input = question(*bounds)
    contents = torch.ones(2, 1, DIM) / DIM**0.5
    estimated = estimate(rating_input, 0.3).value
    assert estimated is not None
    targets = [RatingTarget(4.0), RatingTarget(estimated)]
    wrong_loss, right_loss = RatingHead().losses(rating_input, contents, parameters(0.3, 1e-3), targets).tolist()
    assert right_loss == pytest.approx(0, abs=1e-4) and wrong_loss > 0.01


def test_only_an_adapter_that_has_trained_the_head_gives_an_estimate_which_the_cache_gives_again(
    tmp_path: Path,
) -> None:
    source, adapter_folders = DualEncoder.tiny(tmp_path / "base"), AdapterFolders(tmp_path / "adapters")
    family = DualEncoder.load(source, torch.device("cpu"), torch.float32, Settings())
    rating_input = question(1, 5)
    other = save_random_adapter(family, adapter_folders, "p1.v1", 4, sorted(family.tower(Modality.IMAGE)))
    trained = save_random_adapter(family, adapter_folders, "p1.v2", 4, family.trained_layers(rating_input))
    bank, cache = AdapterBank(family, adapter_folders, 10**9), FeatureCache({FEATURES: 10**6, TEXTS: 10**6})
    prepared = family.prepare(rating_input, lambda media: b"")
    names = (None, other, trained)
    estimates = family.predict([prepared] * 3, names, bank, cache)
    assert [estimate.value is None for estimate in estimates] == [True, True, False]
    for name, expected in zip(names, estimates, strict=True):
        recalled = family.recall(rating_input, lambda media: None, name, bank, cache)
        assert recalled is not None and family.answer(recalled, name, bank, cache) == expected
