"""IoU against counted pixels; matching against all possible pairings."""

import itertools

import numpy as np
import pytest

from lorabel.evaluation.box_matching import iou_matrix, match_boxes
from lorabel.space_contracts import Corners


def drawn_boxes(random: np.random.Generator) -> list[Corners]:
    edges = np.sort(random.integers(0, 13, (random.integers(5), 2, 2)), axis=1)
    return [(float(a), float(b), float(c + 1), float(d + 1)) for (a, b), (c, d) in edges]


def pairs_of_sets() -> list[tuple[list[Corners], list[Corners]]]:
    random = np.random.default_rng(0)
    return [(drawn_boxes(random), drawn_boxes(random)) for _ in range(40)]


def pixels(box: Corners) -> np.ndarray:
    left, top, right, bottom = (int(number) for number in box)
    drawn = np.zeros((14, 14), bool)
    drawn[top:bottom, left:right] = True
    return drawn


@pytest.mark.parametrize(("first", "second"), pairs_of_sets())
def test_iou_is_that_of_counted_pixels(first: list[Corners], second: list[Corners]) -> None:
    found = iou_matrix(first, second)
    assert found.shape == (len(first), len(second))
    for (i, a), (j, b) in itertools.product(enumerate(first), enumerate(second)):
        assert found[i, j] == pytest.approx((pixels(a) & pixels(b)).sum() / (pixels(a) | pixels(b)).sum())


@pytest.mark.parametrize(("first", "second"), pairs_of_sets())
def test_no_other_pairs_overlap_more(first: list[Corners], second: list[Corners]) -> None:
    overlaps = np.where(iou_matrix(first, second) >= 0.3, iou_matrix(first, second), 0)
    pairs = match_boxes(first, second, 0.3)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert all(overlaps[pair] > 0 for pair in pairs)
    slots = [*range(len(second)), *[None] * len(first)]
    best = max(
        sum(overlaps[i, j] for i, j in enumerate(chosen) if j is not None)
        for chosen in itertools.permutations(slots, len(first))
    )
    assert sum(overlaps[pair] for pair in pairs) == pytest.approx(best)


def test_a_box_without_area_has_no_iou() -> None:
    assert iou_matrix([(1, 1, 1, 1)], [(1, 1, 1, 1)]) == 0
