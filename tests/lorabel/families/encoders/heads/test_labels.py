import math

import pytest
import torch

from lorabel.contracts import Content, LabelsInput, LabelTarget, MediaRef, Modality
from lorabel.families.encoders.heads.base import HeadParameters
from lorabel.families.encoders.heads.labels import LabelHead

PICTURE = Content(modality=Modality.IMAGE, media=MediaRef(url="x"))
TEXT = Content(modality=Modality.TEXT, text="x")
QUESTION = LabelsInput(contents=(PICTURE, TEXT), labels=(("red",), ("blue",)))
# The picture is as similar to red as the text is to blue.
CONTENTS = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
SCALE = 4.0


def parameters(modality_weights: dict[Modality, float] | None) -> HeadParameters:
    weights = None
    if modality_weights is not None:
        weights = torch.tensor([[math.log(modality_weights.get(modality, 1.0)) for modality in Modality]])
    return HeadParameters(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), weights, SCALE, None)


def test_all_modalities_weigh_the_same_before_training() -> None:
    for modality_weights in (None, {}):
        output = LabelHead().output(QUESTION, CONTENTS, parameters(modality_weights))
        assert output.probabilities == pytest.approx((0.5, 0.5))


def test_the_modality_with_more_weight_decides() -> None:
    output = LabelHead().output(QUESTION, CONTENTS, parameters({Modality.IMAGE: 3.0, Modality.TEXT: 0.5}))
    expected = torch.tensor([SCALE * 3.0 / 2, SCALE * 0.5 / 2]).softmax(0).tolist()
    assert output.probabilities == pytest.approx(expected)


def test_the_loss_has_gradients_towards_the_modality_that_is_right() -> None:
    head_parameters = parameters({})
    assert head_parameters.weights is not None
    head_parameters.weights.requires_grad_(True)
    LabelHead().losses(QUESTION, CONTENTS[None], head_parameters, [LabelTarget((0,))]).sum().backward()
    assert head_parameters.weights.grad is not None
    gradients = dict(zip(Modality, head_parameters.weights.grad[0].tolist(), strict=True))
    assert gradients[Modality.IMAGE] < 0 < gradients[Modality.TEXT]
    assert gradients[Modality.AUDIO] == gradients[Modality.VIDEO] == 0


def test_the_weights_are_learned_only_for_several_modalities() -> None:
    assert LabelHead().is_learned(QUESTION)
    assert not LabelHead().is_learned(QUESTION.model_copy(update={"contents": (PICTURE, PICTURE)}))
