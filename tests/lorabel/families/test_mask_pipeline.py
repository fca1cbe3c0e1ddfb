"""The pipeline of detector and segmenter as one model that learns."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.errors import SettingsError
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.mask_pipeline import (
    JITTER,
    MOST_MASKS,
    MaskPipeline,
    answer_of,
    boxes_question,
    masks_question,
)
from lorabel.labeling.bit_masks import fill_polygon, runs_of
from lorabel.mask_contracts import LabelledMasksInput, Mask, Masks, MasksTarget
from lorabel.settings import Settings
from lorabel.space_contracts import Box, Boxes, Nearness

QUESTION = LabelledMasksInput(
    contents=(Content(modality=Modality.IMAGE, media=MediaRef(url="http://pictures.test/1.png")),),
    labels=(("car",), ("bus",)),
)
TARGET = MasksTarget(((runs_of(fill_polygon([(8, 4), (24, 4), (24, 20), (8, 20)], 40, 40)), 1),), 40, 40)
EMPTY = MasksTarget((), 0, 0)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> MaskPipeline:
    torch.manual_seed(1)
    source = MaskPipeline.tiny(tmp_path_factory.mktemp("pipeline"))
    return MaskPipeline.load(source, torch.device("cpu"), torch.float32, Settings())


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(file, "PNG")
    return file.getvalue()


def boxes(*probabilities: float) -> Boxes:
    found = tuple(Box(corners=(0.1, 0.1, 0.5, 0.5), label=1, probability=each) for each in probabilities)
    return Boxes(boxes=found, width=40, height=40, threshold=0.3)


def test_likely_boxes_become_prompts_and_masks_get_their_probabilities() -> None:
    found = boxes(0.9, 0.4, 0.04)
    asked = masks_question(QUESTION, found)
    assert [prompt.corners for prompt in asked.prompts] == [found.boxes[0].corners] * 2
    drawn = Masks(masks=(Mask(label=1, runs=(0, 1600), probability=0.7),) * 2, width=40, height=40)
    answer = answer_of(found, drawn)
    assert [mask.probability for mask in answer.masks] == [0.9, 0.4]
    assert answer.threshold == 0.3
    assert len(masks_question(QUESTION, boxes(*[0.5] * 200)).prompts) == MOST_MASKS


def test_one_source_names_two_base_models(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="names 1 base models"):
        MaskPipeline.load(f"local-dir:{tmp_path}", torch.device("cpu"), torch.float32, Settings())
    assert not MaskPipeline.is_local(MaskPipeline.default_source)


@pytest.mark.slow
def test_an_empty_picture_teaches_the_detector_and_asks_the_segmenter_nothing(family: MaskPipeline) -> None:
    prepared = family.prepare(QUESTION, lambda _: picture())
    with torch.no_grad():
        of_both = family.loss([prepared, prepared], [TARGET, EMPTY])
        of_empty = family.loss([prepared], [EMPTY])
        of_detector = family.detector.loss(
            [prepared.boxes], [family.augment([prepared], [EMPTY], seeded())[1][0].boxes]
        )
    assert torch.allclose(of_both[1], of_empty[0]) and torch.allclose(of_empty, of_detector)
    assert of_both[0] > 0 and torch.isfinite(of_both).all()


@pytest.mark.slow
def test_training_asks_the_segmenter_by_the_box_around_each_mask_moved_a_little(family: MaskPipeline) -> None:
    prepared = family.prepare(QUESTION, lambda _: picture())
    corners = set()
    for seed in range(4):
        (moved,), (target,) = family.augment([prepared], [TARGET], seeded(seed))
        (prompt,) = moved.masks.question.prompts
        assert prompt.corners == pytest.approx((0.2, 0.1, 0.6, 0.5), abs=0.4 * JITTER + 1e-6)
        assert (prompt.label, target.masks) == (1, TARGET)
        corners.add(prompt.corners)
    assert len(corners) == 4


@pytest.mark.slow
def test_the_base_models_are_shared_with_those_who_loaded_them(family: MaskPipeline) -> None:
    shared = MaskPipeline.of(family.parts)
    assert shared.detector is family.detector
    assert shared.source == family.source
    prepared = family.prepare(QUESTION, lambda _: picture())
    (first,), (second,) = (
        each.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({})) for each in (family, shared)
    )
    assert first == second


def test_masks_say_the_nearness_of_their_boxes_if_the_question_asks() -> None:
    near = Nearness(answering=(1.0, 2.0))
    (box,) = boxes(0.9).boxes
    found = Boxes(boxes=(box.model_copy(update={"nearness": near}),), width=40, height=40, threshold=0.3)
    drawn = Masks(masks=(Mask(label=1, runs=(0, 1600), probability=0.7),), width=40, height=40)
    (mask,) = answer_of(found, drawn).masks
    assert mask.nearness == near
    assert not boxes_question(QUESTION).is_explained
    assert boxes_question(QUESTION.model_copy(update={"is_explained": True})).is_explained


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
