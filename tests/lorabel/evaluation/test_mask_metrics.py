"""IoU and F of edges, against masks whose figures are known."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from lorabel.evaluation.mask_metrics import boundary_f, iou, labelled_masks, mask_ious, masks, right_masks
from lorabel.labeling.bit_masks import BitMask, mask_of, runs_of
from lorabel.mask_contracts import Mask, Masks, MasksTarget, Runs
from tests.lorabel.evaluation.coco import coco_precisions


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
    assert values == {"tasks": 1, "mean_iou": 0.5, "boundary_f": 0.5, "masks": 2}
    assert masks([target(first)], [output(first, width=200)]).values["mean_iou"] == 0
    assert masks([target(first)], [output(first)]).primary == "mean_iou"


LABELS = ("car", "bus", "bicycle")


def random_pictures(seed: int, pictures: int = 15) -> tuple[list[MasksTarget], list[Masks]]:
    """True masks, and predicted ones that are moved, lost, doubled, invented, or of another label."""
    rng = np.random.default_rng(seed)

    def random_mask() -> BitMask:
        mask = np.zeros((60, 80), bool)
        top, left = rng.integers(0, 40), rng.integers(0, 55)
        mask[top : top + rng.integers(6, 20), left : left + rng.integers(6, 24)] = True
        return mask & (rng.random(mask.shape) < 0.9)

    targets, outputs = [], []
    for _ in range(pictures):
        truth = [(random_mask(), int(rng.integers(2))) for _ in range(rng.integers(0, 5))]
        moved = [
            (np.roll(mask, rng.integers(-2, 3, 2), (0, 1)), label)
            for mask, label in truth
            for _ in range(rng.integers(3))
        ]
        found = moved + [(random_mask(), int(rng.integers(3))) for _ in range(rng.integers(0, 3))]
        predicted = [
            Mask(label=label, runs=runs_of(mask), probability=round(float(rng.uniform(0.05, 1)), 2))
            for mask, label in found
        ]
        targets.append(MasksTarget(tuple((runs_of(mask), label) for mask, label in truth), 80, 60))
        outputs.append(Masks(masks=tuple(predicted), width=80, height=60, threshold=0.5))
    return targets, outputs


def expected_precisions(targets: list[MasksTarget], outputs: list[Masks]) -> tuple[float, float]:
    """mAP@50 and mAP@50:95 of masks by pycocotools."""

    def entry(image: int, runs: Runs, label: int) -> dict[str, object]:
        encoded = coco_mask.encode(np.asfortranarray(mask_of(runs, 80, 60).astype(np.uint8)))
        area, box = float(coco_mask.area(encoded)), coco_mask.toBbox(encoded).tolist()
        place = {"segmentation": encoded, "area": area, "bbox": box, "iscrowd": 0}
        return {"image_id": image, "category_id": label + 1, **place}

    truth = [entry(image, *mask) for image, target in enumerate(targets) for mask in target.masks]
    found = [
        {**entry(image, mask.runs, mask.label), "score": mask.probability}
        for image, output in enumerate(outputs)
        for mask in output.masks
    ]
    images = [{"id": image, "width": 80, "height": 60} for image in range(len(targets))]
    return coco_precisions(images, len(LABELS), truth, found, "segm")


@pytest.mark.parametrize("seed", range(3))
def test_mean_average_precision_of_masks_is_that_of_pycocotools(seed: int) -> None:
    targets, outputs = random_pictures(seed)
    values = labelled_masks(targets, outputs, LABELS).values
    assert (values["map_50"], values["map"]) == pytest.approx(expected_precisions(targets, outputs), abs=1e-9)
    assert 0.05 < values["map"] < values["map_50"] < 1


def test_overlaps_of_runs_are_those_of_pixels() -> None:
    rng = np.random.default_rng(0)
    some = [rng.random((7, 9)) < share for share in (0.0, 0.2, 0.5, 0.9, 1.0)]
    expected = [[iou(first, second) if (first | second).any() else 0.0 for second in some] for first in some]
    assert mask_ious([runs_of(mask) for mask in some], [runs_of(mask) for mask in some]) == pytest.approx(
        np.array(expected)
    )


def test_pairs_of_masks_that_are_shown_and_of_the_same_label_have_the_figures_of_their_edges() -> None:
    truth = MasksTarget(((runs_of(square(0, 0, 20)), 0), (runs_of(square(50, 50, 20)), 1)), 100, 100)
    near = Mask(label=0, runs=runs_of(square(2, 0, 20)), probability=0.9)
    other_label = Mask(label=0, runs=runs_of(square(50, 50, 20)), probability=0.9)
    hidden = Mask(label=1, runs=runs_of(square(50, 50, 20)), probability=0.1)
    found = Masks(masks=(near, other_label, hidden), width=100, height=100, threshold=0.5)
    metrics = labelled_masks([truth], [found], LABELS)
    assert metrics.primary == "map"
    assert metrics.values["mean_iou"] == pytest.approx(18 / 22)
    assert (metrics.values["boundary_f"], metrics.values["matched"]) == (1, 1)
    assert (metrics.values["per_class"]["car"]["precision"], metrics.values["per_class"]["bus"]["recall"]) == (
        0.5,
        0,
    )


def test_masks_of_a_picture_of_another_size_meet_nothing() -> None:
    values = labelled_masks([target(square(0, 0, 20))], [output(square(0, 0, 20), width=200)], LABELS).values
    assert (values["map"], values["mean_iou"], values["matched"]) == (0, 0, 0)
    assert right_masks(target(square(0, 0, 20)), output(square(0, 0, 20))) == [True]


def test_where_there_is_nothing_to_mask_silence_is_perfect_and_a_mask_is_not() -> None:
    empty = MasksTarget((), 0, 0)
    assert labelled_masks([empty], [output()], LABELS).values["map"] == 1
    assert labelled_masks([empty], [output(square(0, 0, 20))], LABELS).values["map"] == 0
