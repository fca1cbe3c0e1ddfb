import math

import pytest
import torch

from lorabel.contracts import LabelTarget
from lorabel.families.encoders.contrastive_loss import TEMPERATURE, contrastive_losses, likeness_of


def test_the_loss_is_that_of_the_paper() -> None:
    """Equation 2 of Khosla et al. 2020 (L_out), written with loops."""
    features = torch.nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), dim=1)
    classes = [0, 0, 1, 1, 1, 2]
    expected = []
    for i in range(6):
        others = [math.exp(float(features[i] @ features[j]) / TEMPERATURE) for j in range(6) if j != i]
        positives = [j for j in range(6) if j != i and classes[j] == classes[i]]
        logs = [float(features[i] @ features[j]) / TEMPERATURE - math.log(sum(others)) for j in positives]
        expected.append(-sum(logs) / len(positives) if positives else 0.0)
    losses = contrastive_losses(features, [LabelTarget((label,)) for label in classes])
    assert losses.tolist() == pytest.approx(expected, abs=1e-4)


def test_targets_are_alike_by_the_share_of_their_labels() -> None:
    likeness = likeness_of([LabelTarget((0,)), LabelTarget((0, 1)), LabelTarget(()), LabelTarget(())])
    assert likeness[0].tolist() == [1.0, 0.5, 0.0, 0.0]
    assert likeness[2].tolist() == [0.0, 0.0, 1.0, 1.0], "none of the labels, twice"


def test_a_batch_of_one_has_no_loss_and_a_finite_gradient() -> None:
    features = torch.ones(1, 4, requires_grad=True)
    (loss,) = contrastive_losses(features, [LabelTarget((0,))])
    loss.backward()
    assert loss.item() == 0.0 and features.grad is not None and bool(features.grad.isfinite().all())
