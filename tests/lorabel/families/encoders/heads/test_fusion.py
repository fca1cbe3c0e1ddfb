import numpy as np
import pytest

from lorabel.families.encoders.heads.fusion import Fusion
from lorabel.families.encoders.heads.head_features import FEATURE_MAPS, MEAN, map_features
from lorabel.families.encoders.heads.linear_head import LinearHead

SLOTS = ("image", "text", "text")


@pytest.mark.parametrize("feature_map", FEATURE_MAPS)
def test_a_head_on_the_features_of_the_fit_computes_the_same_on_those_of_the_map(feature_map: str) -> None:
    rng = np.random.default_rng(0)
    contents = rng.normal(size=(len(SLOTS), 20, 6)) + rng.normal(size=(len(SLOTS), 1, 6))
    contents[1, 3] = 0.0  # the task lacks this text
    used = contents.mean(0)[None] if feature_map == MEAN else contents
    fusion = Fusion.of(feature_map, SLOTS, used[:, :10])
    mixed = fusion.mix(used)
    weights = rng.normal(size=(mixed.shape[1], 2)).astype(np.float32)
    head = LinearHead(weights, rng.normal(size=2).astype(np.float32), 1.0, np.ones(2, np.bool_))
    unmixed = fusion.unmix(head)
    tasks = contents.astype(np.float32).swapaxes(0, 1)
    mapped = np.stack([map_features(feature_map, unmixed.slots, SLOTS, task) for task in tasks])
    zero_shot = rng.normal(size=(20, 2)).astype(np.float32)
    expected = head.logits(mixed, zero_shot)
    np.testing.assert_allclose(unmixed.logits(mapped, zero_shot), expected, rtol=2e-3, atol=2e-3)
