import math

import pytest
import torch

from lorabel.contracts import Content, LabelsInput, LabelTarget, MediaRef, Modality
from lorabel.families.encoders.heads.base import HeadParameters
from lorabel.families.encoders.heads.labels import LabelHead

PICTURE = Content(modality=Modality.IMAGE, media=MediaRef(url="x"))
TEXT = Content(modality=Modality.TEXT, text="x")
QUESTION = LabelsInput(contents=(PICTURE, TEXT), labels=(("red",), ("blue",)))
# The picture is as near to red as the text is to blue.
CONTENTS = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
SCALE = 4.0


def basis(weights: dict[Modality, float] | None) -> HeadParameters:
    row = None if weights is None else torch.tensor([[math.log(weights.get(one, 1.0)) for one in Modality]])
    return HeadParameters(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), row, SCALE, None)


def test_untaught_all_modalities_count_the_same() -> None:
    for weights in (None, {}):
        assert LabelHead().output(QUESTION, CONTENTS, basis(weights)).probabilities == pytest.approx((0.5, 0.5))


def test_a_modality_of_more_weight_decides() -> None:
    found = LabelHead().output(QUESTION, CONTENTS, basis({Modality.IMAGE: 3.0, Modality.TEXT: 0.5}))
    expected = torch.tensor([SCALE * 3.0 / 2, SCALE * 0.5 / 2]).softmax(0).tolist()
    assert found.probabilities == pytest.approx(expected)


def test_the_loss_teaches_which_modality_to_trust() -> None:
    known = basis({})
    assert known.weights is not None
    known.weights.requires_grad_(True)
    LabelHead().losses(QUESTION, CONTENTS[None], known, [LabelTarget((0,))]).sum().backward()
    assert known.weights.grad is not None
    slope = dict(zip(Modality, known.weights.grad[0].tolist(), strict=True))
    assert slope[Modality.IMAGE] < 0 < slope[Modality.TEXT]
    assert slope[Modality.AUDIO] == slope[Modality.VIDEO] == 0


def test_the_weights_are_learned_only_where_there_are_several_modalities() -> None:
    assert LabelHead().is_learned(QUESTION)
    assert not LabelHead().is_learned(QUESTION.model_copy(update={"contents": (PICTURE, PICTURE)}))
