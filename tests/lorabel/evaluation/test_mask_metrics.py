"""IoU and F of edges, against masks whose figures are known."""

import numpy as np
import pytest

from lorabel.evaluation.mask_metrics import boundary_f, iou, masks
from lorabel.labeling.bit_masks import BitMask, runs_of
from lorabel.mask_contracts import Mask, Masks, MasksTarget


def square(left: int, top: int, side: int) -> BitMask:
    mask = np.zeros((100, 100), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_iou_is_the_common_part_of_the_union() -> None:
    assert iou(square(0, 0, 10), square(5, 0, 10)) == pytest.approx(50 / 150)
    assert iou(square(0, 0, 10), square(50, 50, 10)) == 0
    assert iou(square(0, 0, 0), square(0, 0, 0)) == 1


def test_edges_count_as_the_same_within_the_tolerance() -> None:
    """0.8% of the diagonal of 100 x 100 pixels are 2 pixels, rounded up."""
    assert boundary_f(square(20, 20, 40), square(22, 20, 40)) == 1
    assert boundary_f(square(20, 20, 40), square(20, 20, 40)) == 1
    assert 0 < boundary_f(square(20, 20, 40), square(30, 20, 40)) < 1
    assert boundary_f(square(10, 10, 10), square(80, 80, 10)) == 0
    assert boundary_f(square(0, 0, 0), square(10, 10, 10)) == 0


def target(*right: BitMask) -> MasksTarget:
    return MasksTarget(tuple((runs_of(mask), 0) for mask in right), 100, 100)


def output(*found: BitMask, width: int = 100) -> Masks:
    return Masks(masks=tuple(Mask(label=0, runs=runs_of(mask)) for mask in found), width=width, height=100)


def test_the_figures_are_means_over_masks_and_missing_masks_count_zero() -> None:
    first, second = square(0, 0, 20), square(50, 50, 20)
    values = masks([target(first, second)], [output(first)]).values
    assert values == {"mean_iou": 0.5, "boundary_f": 0.5, "masks": 2}
    assert masks([target(first)], [output(first, width=200)]).values["mean_iou"] == 0
    assert masks([target(first)], [output(first)]).primary == "mean_iou"
