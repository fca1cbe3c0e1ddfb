"""Heads on the features of base model and adapter: the mean of two heads, as one."""

import base64

import numpy as np
import pytest

from lorabel.contracts import LabelTarget
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.feature_contracts import Features, space_with
from tests.questions import about_text

DIM, LABELS = 6, ("a", "b", "c")


def examples(dim: int) -> list[Example]:
    generator = np.random.default_rng(0)
    made = []
    for number in range(30):
        features = (generator.normal(size=DIM * 2) + 3 * np.eye(2 * DIM)[number % 3])[:dim]
        float16 = base64.b64encode(features.astype("<f2").tobytes()).decode()
        answer = Features(space="", dim=dim, float16=float16, logits=tuple(generator.normal(size=3)))
        made.append(Example.of(about_text("x", LABELS), answer, LabelTarget((number % 3,))))
    return made


def test_the_logits_are_the_mean_of_the_head_on_both_features_and_the_head_on_the_base_models() -> None:
    both, base = (fit_head(examples(dim), "of the base") for dim in (2 * DIM, DIM))
    mean = fit_head(examples(2 * DIM), space_with("of the base", "p1.v1/label"))
    assert both is not None and base is not None and mean is not None
    for example in examples(2 * DIM):
        row, logits = example.features, example.logits[None]
        expected = (both.logits(row, logits) + base.logits(row[:, :DIM], logits)) / 2
        np.testing.assert_allclose(mean.logits(row, logits), expected, atol=1e-3)


@pytest.mark.parametrize("count", [0, 1])
def test_without_two_classes_there_is_no_head(count: int) -> None:
    assert fit_head(examples(2 * DIM)[:count], space_with("of the base", "p1.v1/label")) is None
