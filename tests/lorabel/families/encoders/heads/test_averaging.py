"""Heads on the features of base model and adapter: the mean of two heads, as one."""

import base64

import numpy as np
import pytest

from lorabel.contracts import LabelTarget
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.feature_contracts import Features, space_with
from tests.questions import about_text

DIM, LABELS = 6, ("a", "b", "c")


def examples(dim: int, count: int = 30) -> list[Example]:
    generator = np.random.default_rng(0)
    made = []
    for number in range(count):
        features = (generator.normal(size=DIM * 2) + 3 * np.eye(2 * DIM)[number % 3])[:dim]
        float16 = base64.b64encode(features.astype("<f2").tobytes()).decode()
        answer = Features(space="", dim=dim, float16=float16, logits=tuple(generator.normal(size=3)))
        made.append(Example.of(about_text("x", LABELS), answer, LabelTarget((number % 3,))))
    return made


@pytest.mark.parametrize(("count", "share"), [(30, 0.5), (160, 0.5), (320, 0.25)])
def test_the_logits_are_the_mean_of_the_head_on_both_features_and_the_head_on_the_base_models(
    count: int, share: float
) -> None:
    """`share`: what the head on the base model's features counts."""
    both, base = (fit_head(examples(dim, count), "of the base") for dim in (2 * DIM, DIM))
    mean = fit_head(examples(2 * DIM, count), space_with("of the base", "p1.v1/label"))
    assert both is not None and base is not None and mean is not None
    for example in examples(2 * DIM, count):
        row, logits = example.features, example.logits[None]
        expected = (1 - share) * both.logits(row, logits) + share * base.logits(row[:, :DIM], logits)
        np.testing.assert_allclose(mean.logits(row, logits), expected, atol=1e-3)


@pytest.mark.parametrize("count", [0, 1])
def test_without_two_classes_there_is_no_head(count: int) -> None:
    assert fit_head(examples(2 * DIM)[:count], space_with("of the base", "p1.v1/label")) is None
