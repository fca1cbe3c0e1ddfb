"""Questions about each content by itself, against the same questions asked one by one."""

import numpy as np
import pytest
import torch

from lorabel.contracts import Content, LabelsInput, LabelTarget, Modality, RatingInput, RatingTarget
from lorabel.families.encoders.heads.each import each_content, mean_of_each
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.head_answers import answer_with_head, check_head
from lorabel.picture_part import Part
from lorabel.region_contracts import EachLabelsInput, EachRatingInput, EachTarget, RegionAnswer

DIM, PICTURES = 24, 30
PICTURE = Content(modality=Modality.IMAGE, text="x")
LABELS = (("a",), ("b",), ("c",))


def target_of(targets: list[object]) -> EachTarget:
    part = Part(x=0.5, y=0.5, width=0.5, height=0.5)
    return EachTarget(tuple(RegionAnswer(part, (0.25, 0.25, 0.75, 0.75), target) for target in targets))


def drawn(is_rating: bool) -> tuple[list[Example], list[Example]]:
    """Pictures with one to five regions; and their regions as examples of their own, grouped by picture."""
    rng = np.random.default_rng(3)
    pictures, regions = [], []
    for number in range(PICTURES):
        count = 1 + number % 5
        rows = rng.normal(size=(count, DIM)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        logits = np.zeros((count, 0 if is_rating else len(LABELS)), np.float32)
        targets: list[object] = [
            RatingTarget(float(3 + row[0])) if is_rating else LabelTarget((int(row[:3].argmax()),)) for row in rows
        ]
        each = RatingInput(contents=(PICTURE,)) if is_rating else LabelsInput(contents=(PICTURE,), labels=LABELS)
        fields = {"contents": (PICTURE,) * count}
        asked = EachRatingInput(**fields) if is_rating else EachLabelsInput(labels=LABELS, **fields)
        pictures.append(Example(asked, rows, logits.reshape(-1), target_of(targets)))
        regions += [
            Example(each, row[None], logits[0], target, rows.tobytes())
            for row, target in zip(rows, targets, strict=True)
        ]
    return pictures, regions


@pytest.mark.parametrize("is_rating", [False, True])
def test_the_head_is_that_of_the_regions_and_answers_each_of_them(is_rating: bool) -> None:
    pictures, regions = drawn(is_rating)
    head, expected = fit_head(pictures, "space"), fit_head(regions, "space")
    assert head is not None and expected is not None
    np.testing.assert_array_equal(head.weights, expected.weights)
    np.testing.assert_array_equal(head.bias, expected.bias)
    assert head.kind == pictures[0].question.kind
    crowded = pictures[4]
    check_head(head, crowded.question, "space", DIM)
    joined = answer_with_head(head, crowded.question, crowded.features, crowded.logits)
    alone = [
        answer_with_head(expected, region.question, region.features, region.logits) for region in crowded.each
    ]
    assert list(joined.answers) == alone  # type: ignore[attr-defined]
    assert len(alone) == 5


def test_the_loss_of_a_picture_is_the_mean_over_its_regions() -> None:
    features = [torch.arange(6.0).view(3, 2), torch.tensor([[1.0, 3.0], [3.0, 5.0]])]
    targets = [target_of(["a", "b", "c"]), "of the task"]
    rows, row_targets = each_content(features, targets)
    assert rows.tolist() == [[0, 1], [2, 3], [4, 5], [2, 4]]
    assert row_targets == ["a", "b", "c", "of the task"]
    assert mean_of_each(torch.tensor([1.0, 2.0, 6.0, 7.0]), targets).tolist() == [3.0, 7.0]
