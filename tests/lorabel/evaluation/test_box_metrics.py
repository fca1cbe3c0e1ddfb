import numpy as np
import pytest

from lorabel.evaluation.box_metrics import boxes, right_boxes
from lorabel.space_contracts import Box, Boxes, BoxTarget, Corners
from tests.lorabel.evaluation.coco import coco_precisions

LABELS = ("car", "bus", "bicycle")
SIDE_PX = 1000


def random_pictures(seed: int, pictures: int = 25) -> tuple[list[BoxTarget], list[Boxes]]:
    """True boxes, and predicted ones that are moved, lost, doubled, invented, or of another label."""
    rng = np.random.default_rng(seed)

    def random_box() -> Corners:
        left, top = rng.uniform(0, 0.7, 2)
        width, height = rng.uniform(0.05, 0.3, 2)
        return float(left), float(top), float(left + width), float(top + height)

    def moved(box: Corners) -> Corners:
        shifts = rng.normal(0, 0.015, 4)
        left, top, right, bottom = (float(number + shift) for number, shift in zip(box, shifts, strict=True))
        return left, top, max(right, left + 0.01), max(bottom, top + 0.01)

    targets, outputs = [], []
    for _ in range(pictures):
        truth = [(random_box(), int(rng.integers(len(LABELS) - 1))) for _ in range(rng.integers(0, 6))]
        found = [(moved(box), label) for box, label in truth for _ in range(rng.integers(0, 3))]
        found += [(random_box(), int(rng.integers(len(LABELS)))) for _ in range(rng.integers(0, 3))]
        predicted = [
            Box(corners=box, label=label, probability=round(float(rng.uniform(0.05, 1)), 2))
            for box, label in found
        ]
        targets.append(BoxTarget(tuple(truth)))
        outputs.append(Boxes(boxes=tuple(predicted), width=SIDE_PX, height=SIDE_PX, threshold=0.5))
    return targets, outputs


def expected_precisions(targets: list[BoxTarget], outputs: list[Boxes]) -> tuple[float, float]:
    """mAP@50 and mAP@50:95 of pycocotools."""

    def entry(image: int, corners: Corners, label: int) -> dict[str, object]:
        left, top, right, bottom = (number * SIDE_PX for number in corners)
        box = [left, top, right - left, bottom - top]
        return {"image_id": image, "category_id": label + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}

    truth = [entry(image, *box) for image, target in enumerate(targets) for box in target.boxes]
    found = [
        {**entry(image, box.corners, box.label), "score": box.probability}
        for image, output in enumerate(outputs)
        for box in output.boxes
    ]
    images = [{"id": image} for image in range(len(targets))]
    return coco_precisions(images, len(LABELS), truth, found, "bbox")


@pytest.mark.parametrize("seed", range(4))
def test_mean_average_precision_is_that_of_pycocotools(seed: int) -> None:
    targets, outputs = random_pictures(seed)
    values = boxes(targets, outputs, LABELS).values
    assert (values["map_50"], values["map"]) == pytest.approx(expected_precisions(targets, outputs), abs=1e-9)
    assert 0.1 < values["map"] < values["map_50"] < 1


def output(*found: tuple[Corners, int, float], threshold: float = 0.5) -> Boxes:
    predicted = tuple(Box(corners=box, label=label, probability=score) for box, label, score in found)
    return Boxes(boxes=predicted, width=100, height=100, threshold=threshold)


LEFT, RIGHT = (0.1, 0.1, 0.4, 0.4), (0.6, 0.1, 0.9, 0.4)


def test_precision_and_recall_are_of_the_boxes_that_are_shown() -> None:
    targets = [BoxTarget(((LEFT, 0), (RIGHT, 0))), BoxTarget(())]
    outputs = [output((LEFT, 0, 0.9), (LEFT, 0, 0.8), (RIGHT, 0, 0.4)), output((RIGHT, 1, 0.9))]
    metrics = boxes(targets, outputs, LABELS)
    assert metrics.primary == "map_50"
    per_class = metrics.values["per_class"]
    assert (per_class["car"]["precision"], per_class["car"]["recall"], per_class["car"]["support"]) == (
        0.5,
        0.5,
        2,
    )
    assert (per_class["bus"]["precision"], per_class["bus"]["ap_50"]) == (0.0, None)


def test_where_nothing_is_to_be_found_silence_is_perfect_and_a_box_is_not() -> None:
    empty = [BoxTarget(())]
    assert boxes(empty, [output((LEFT, 0, 0.3))], LABELS).values["map_50"] == 1.0
    assert boxes(empty, [output((LEFT, 0, 0.6))], LABELS).values["map_50"] == 0.0
    assert boxes([BoxTarget(((LEFT, 0),))], [output()], LABELS).values["map_50"] == 0.0


def test_only_the_likeliest_box_on_a_thing_is_right() -> None:
    target = BoxTarget(((LEFT, 0), (RIGHT, 1)))
    found = output((LEFT, 0, 0.3), (LEFT, 0, 0.7), (RIGHT, 0, 0.9), (RIGHT, 1, 0.2))
    assert right_boxes(target, found) == [False, True, False, True]
