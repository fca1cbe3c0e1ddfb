from collections import Counter

import numpy as np
import pytest

from lorabel.demo.scene_annotator import (
    ANNOTATED,
    CLICKS,
    SCENES,
    Clicks,
    SceneRound,
    f1,
    has_improved,
)
from lorabel.demo.scene_project import (
    GRADE,
    LABEL_CONFIG,
    PAIRS,
    SIZE,
    mask_of,
    right_label,
    right_regions,
    scene_of,
    scenes,
)
from lorabel.evaluation.mask_metrics import iou
from lorabel.problems.binding import bind


def test_boxes_masks_and_clicks_are_served_and_no_control_tag_is_left() -> None:
    bound = bind(LABEL_CONFIG)
    assert sorted(problem.name for problem in bound.bindings) == [
        "boxes",
        "interactive_segmentation",
        "segmentation",
    ]
    assert bound.unclaimed == ()


def test_every_label_is_among_the_annotated_and_the_unseen_scenes() -> None:
    for part in (scenes(SCENES)[:ANNOTATED], scenes(SCENES)[ANNOTATED:]):
        counts = Counter(right_label(thing) for scene in part for thing in scene.things)
        assert min(counts[label] for label in (*PAIRS.values(), GRADE)) >= 4, counts
        assert counts[None] >= 4, "some things must have no label"


def test_unseen_scenes_have_enough_things_to_click_on() -> None:
    things = [thing for scene in scenes(SCENES)[ANNOTATED:] for thing in scene.things]
    assert sum((thing.colour, thing.shape) in PAIRS and not thing.has_hole for thing in things) >= CLICKS


def test_the_scene_of_a_task_is_found_by_its_file_name() -> None:
    assert scene_of({"image": "/data/upload/2/b3d4456e-scene-017.png"}, 20) == scenes(20)[17]


def test_right_boxes_are_perfect_and_moved_or_missing_or_superfluous_ones_are_not() -> None:
    right = [
        (scene, [region for region in right_regions(scene) if region["from_name"] == "box"])
        for scene in scenes(20)
    ]
    assert f1(right) == f1(right, GRADE) == 1
    count = sum(len(regions) for _, regions in right)
    assert f1([(scene, []) for scene, _ in right]) == 0
    twice = [(scene, [*regions, *regions]) for scene, regions in right]
    assert f1(twice) == pytest.approx(2 * count / (2 * count + count))
    others = dict(zip(PAIRS.values(), reversed(PAIRS.values()), strict=True))
    renamed = [
        (
            scene,
            [
                {**region, "value": {**region["value"], "rectanglelabels": [others.get(label, label)]}}
                for region in regions
                for label in region["value"]["rectanglelabels"]
            ],
        )
        for scene, regions in right
    ]
    assert f1(renamed, GRADE) == 1
    assert f1(renamed) < 1


def test_the_mask_of_a_thing_is_where_it_is_drawn() -> None:
    for scene in scenes(20):
        pixels = np.asarray(scene.draw()).astype(int)
        for thing in scene.things:
            if not thing.has_hole:
                is_drawn = np.abs(pixels - thing.shade).max(axis=2) <= 2
                left, top, right, bottom = (
                    round(edge * SIZE[axis % 2]) for axis, edge in enumerate(thing.corners)
                )
                beside = np.ones_like(is_drawn)
                beside[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = False
                assert iou(mask_of(thing), is_drawn & ~beside) > 0.9


def test_the_loop_improved_if_the_unknown_label_was_learned_and_masks_are_right() -> None:
    def is_improved(grade: float, others: float, mask_iou: float) -> bool:
        rounds = [SceneRound(0, 0.5, 0.0), SceneRound(40, others, grade, 10.0, "live")]
        return has_improved(rounds, Clicks(mask_iou, 100.0))

    assert is_improved(0.5, 0.6, 0.8)
    assert not is_improved(0.2, 0.6, 0.8)
    assert is_improved(0.5, 0.45, 0.8)
    assert not is_improved(0.5, 0.3, 0.8)
    assert not is_improved(0.5, 0.6, 0.6)
