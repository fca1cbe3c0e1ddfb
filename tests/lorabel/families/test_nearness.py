"""The nearness of labels to boxes, against what is drawn: with the tiny detector that is trained on drawn scenes.

A test knows which thing is at which place. What is covered, it covers in the picture's file.
"""

import io
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from lorabel.demo import DETECTOR_FOLDER, SEGMENTER_FOLDER
from lorabel.demo.scenes import ALL_PAIRS, UNSEEN_PAIRS, Scene, Thing, random_scenes
from lorabel.evaluation.box_matching import iou_matrix
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.detector import Detector
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.mask_pipeline import AND, MaskPipeline
from lorabel.feature_contracts import FeaturesInput
from lorabel.mask_contracts import LabelledMasksInput, Masks
from lorabel.settings import Settings
from lorabel.space_contracts import Box, Boxes, BoxesInput, BoxTarget, Corners, Nearness
from tests.questions import about_picture

pytestmark = pytest.mark.slow

NAMES = tuple(f"{colour} {shape}" for colour, shape in ALL_PAIRS if (colour, shape) not in UNSEEN_PAIRS)
SCENES = tuple(itertools.islice(random_scenes(321, (96, 96)), 12))
CPU = torch.device("cpu")
# The detector's answers include boxes from a probability of 0.01 on.
NOTHING_NEAR = -4.6


def question(names: Sequence[str] = NAMES, *, is_explained: bool = True) -> BoxesInput:
    contents = about_picture("x", list(names)).contents
    return BoxesInput(contents=contents, labels=tuple((name,) for name in names), is_explained=is_explained)


@pytest.fixture(scope="module")
def family() -> Detector:
    settings = Settings(detector_threshold=0.3)
    return Detector.load(f"local-dir:{DETECTOR_FOLDER}", CPU, torch.float32, settings)


def find(family: Detector, image: Image.Image, asked: BoxesInput, head: LinearHead | None = None) -> Boxes:
    prepared = family.with_head(family.prepare(asked, lambda _: file_of(image)), head)
    (output,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    assert isinstance(output, Boxes)
    return output


def file_of(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def name_of(thing: Thing) -> str:
    return f"{thing.colour} {thing.shape}"


def in_order(nearness: Nearness | None) -> list[str]:
    """The labels, the nearest first."""
    assert nearness is not None
    return [NAMES[index] for index in np.argsort(-np.array(nearness.answering))]


def boxes_at(found: Boxes, place: Corners, overlap: float = 0.5) -> list[Box]:
    """The boxes whose IoU with a place is at least `overlap`, the likeliest first."""
    if not found.boxes:
        return []
    overlaps = iou_matrix([box.corners for box in found.boxes], [place])[:, 0]
    return [box for box, iou in zip(found.boxes, overlaps, strict=True) if iou >= overlap]


def answering(box: Box) -> tuple[float, ...]:
    assert box.nearness is not None
    return box.nearness.answering


def covered(scene: Scene, place: Corners) -> Image.Image:
    """The scene with a rectangle in the colours of its ground at a place."""
    image = scene.draw()
    width, height = image.size
    left, top, right, bottom = (
        round(side * length) for side, length in zip(place, (width, height) * 2, strict=True)
    )
    ground = Scene((), scene.size, scene.ground).draw()
    image.paste(ground.crop((left - 1, top - 1, right + 1, bottom + 1)), (left - 1, top - 1))
    return image


def test_the_nearest_label_names_the_thing_and_the_next_shares_its_colour_or_its_shape(family: Detector) -> None:
    nearest, next_shares, count = 0, 0, 0
    for scene in SCENES:
        found = find(family, scene.draw(), question())
        for thing in scene.things:
            shown = [box for box in boxes_at(found, thing.corners) if box.probability >= found.threshold]
            if not shown:
                continue
            count += 1
            first, second, *_ = in_order(shown[0].nearness)
            nearest += first == name_of(thing)
            next_shares += bool({*second.split()} & {thing.colour, thing.shape})
    assert count >= 0.8 * sum(len(scene.things) for scene in SCENES)
    assert nearest >= 0.9 * count, f"{nearest} of {count}"
    # By chance it would be about a third.
    assert next_shares >= 0.9 * count, f"{next_shares} of {count}"


def test_covering_the_thing_takes_its_label_away_and_covering_another_place_does_not(family: Detector) -> None:
    def nearness_at(image: Image.Image, thing: Thing) -> float:
        found = find(family, image, question([name_of(thing)]))
        return max((answering(box)[0] for box in boxes_at(found, thing.corners, 0.3)), default=NOTHING_NEAR)

    of_thing, elsewhere = [], []
    for scene in SCENES:
        if len(scene.things) < 2:
            continue
        thing, other = scene.things[:2]
        before = nearness_at(scene.draw(), thing)
        of_thing.append(before - nearness_at(covered(scene, thing.corners), thing))
        elsewhere.append(before - nearness_at(covered(scene, other.corners), thing))
    assert len(of_thing) >= 6
    assert np.median(of_thing) > 3, of_thing
    assert abs(np.median(elsewhere)) < 0.5, elsewhere


def test_the_nearness_of_a_boxs_label_is_the_logarithm_of_its_odds(family: Detector) -> None:
    found = find(family, SCENES[0].draw(), question())
    assert found.boxes
    for box in found.boxes:
        assert box.nearness is not None and len(box.nearness.answering) == len(NAMES)
        assert 1 / (1 + np.exp(-box.nearness.answering[box.label])) == pytest.approx(box.probability, abs=1e-5)
        assert (box.nearness.of_texts, box.nearness.is_taught) == ((), ())


def test_nothing_is_said_and_nothing_changes_where_nobody_asks(family: Detector) -> None:
    plain = find(family, SCENES[0].draw(), question(is_explained=False))
    explained = find(family, SCENES[0].draw(), question())
    assert "nearness" not in str(plain.model_dump())
    assert "is_explained" not in question(is_explained=False).model_dump()
    without = [box.model_copy(update={"nearness": None}) for box in explained.boxes]
    assert explained.model_copy(update={"boxes": tuple(without)}) == plain


def test_a_head_tells_what_it_was_taught_beside_what_the_texts_say(family: Detector) -> None:
    """`grade A` means red things: no text says so."""
    names = ("grade A", "blue thing")
    asked = question(names)
    examples = []
    for scene in (scene for scene in random_scenes(77, (96, 96)) if any(map(is_red, scene.things))):
        boxes = tuple(sorted((thing.corners, 0) for thing in scene.things if is_red(thing)))
        target = BoxTarget(boxes, scene.size)
        features_question = FeaturesInput.of(asked, target)
        prepared = family.prepare(features_question, lambda _, scene=scene: file_of(scene.draw()))  # type: ignore[arg-type, misc]
        (features,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
        examples.append(Example.of(asked, features, target))  # type: ignore[arg-type]
        if len(examples) == 12:
            break
    head = fit_head(examples, family.space)
    red, others = [], []
    for scene in SCENES:
        found = find(family, scene.draw(), asked, head)
        for thing in scene.things:
            at = boxes_at(found, thing.corners)
            if not at or at[0].nearness is None:
                continue
            nearness = at[0].nearness
            assert nearness.is_taught == (True, False)
            assert nearness.of_texts[1] == pytest.approx(nearness.answering[1]), "a label that is not taught"
            (red if is_red(thing) else others).append((nearness.answering[0], nearness.of_texts[0]))
    assert len(red) >= 3 and len(others) >= 10
    taught = min(near for near, _ in red) - max(near for near, _ in others)
    by_text = min(near for _, near in red) - max(near for _, near in others)
    assert taught > 0 > by_text, (taught, by_text)
    assert np.median([near for near, _ in red]) > 0 > np.median([near for near, _ in others])


def is_red(thing: Thing) -> bool:
    return thing.colour == "red"


def test_masks_say_how_near_the_labels_are_to_what_is_in_them() -> None:
    source = AND.join(f"local-dir:{folder}" for folder in (DETECTOR_FOLDER, SEGMENTER_FOLDER))
    family = MaskPipeline.load(source, CPU, torch.float32, Settings(detector_threshold=0.3))
    boxes = question()
    asked = LabelledMasksInput(contents=boxes.contents, labels=boxes.labels, is_explained=True)
    right = 0
    for scene in SCENES[:3]:
        prepared = family.prepare(asked, lambda _, scene=scene: file_of(scene.draw()))  # type: ignore[misc]
        (output,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
        assert isinstance(output, Masks) and output.masks
        names = {name_of(thing) for thing in scene.things}
        shown = [mask for mask in output.masks if mask.probability >= 0.5]
        right += all(in_order(mask.nearness)[0] in names for mask in shown) and bool(shown)
    assert right == 3
