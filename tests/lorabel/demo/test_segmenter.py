"""The demo's segmenter obeys clicks on scenes that it was not trained on, and learns how people outline things."""

import io
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from PIL import Image

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.demo import SEGMENTER_FOLDER
from lorabel.demo.mask_scenes import FEWEST_THINGS, MOST_THINGS, MaskScene, mask_scenes
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.segmenter import Segmenter
from lorabel.labeling.bit_masks import box_of, fill_polygon, inner_point, mask_of, runs_of
from lorabel.mask_contracts import MasksInput, MasksTarget, Point, Prompt
from lorabel.settings import Settings

UNSEEN_SEED = 99
SIDE_PX = 128
LARGEST_FILE = 4 * 2**20
# Lowest mean IoU. The goal of 0.85 is not reached yet: lorabel/demo/README.md says why.
CLICK_IOU, BOX_IOU = 0.85, 0.85
Masks = NDArray[np.bool_]


@pytest.fixture
def family() -> Segmenter:
    return Segmenter.load(f"local-dir:{SEGMENTER_FOLDER}", torch.device("cpu"), torch.float32, Settings())


def scenes(count: int, seed: int = UNSEEN_SEED) -> list[MaskScene]:
    return list(islice(mask_scenes(seed, SIDE_PX), count))


def prepared(family: Segmenter, scene: MaskScene, prompts: Sequence[Prompt]) -> Any:
    file = io.BytesIO()
    Image.fromarray(scene.pixels).save(file, "PNG")
    content = Content(modality=Modality.IMAGE, media=MediaRef(url="http://pictures.test/a.png"))
    return family.prepare(MasksInput(contents=(content,), prompts=tuple(prompts)), lambda _: file.getvalue())


def clicks(masks: Masks) -> list[Prompt]:
    """A click in each mask, where a person would click."""
    places = [inner_point(mask) for mask in masks]
    return [Prompt(label=0, points=(Point(x=x, y=y),)) for x, y in places]


def answered(family: Segmenter, scene: MaskScene, prompts: Sequence[Prompt]) -> Masks:
    inputs = [prepared(family, scene, prompts)]
    (output,) = family.predict(inputs, [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    return np.stack([mask_of(mask.runs, SIDE_PX, SIDE_PX) for mask in output.masks])  # type: ignore[attr-defined]


def ious(first: Masks, second: Masks) -> list[float]:
    common, union = (first & second).sum(axis=(1, 2)), (first | second).sum(axis=(1, 2))
    return list((common / union).tolist())


def test_the_file_is_small() -> None:
    assert sum(path.stat().st_size for path in SEGMENTER_FOLDER.iterdir()) < LARGEST_FILE


@pytest.mark.slow
def test_scenes_have_two_to_five_things_that_only_touch_and_are_the_same_for_a_seed() -> None:
    some, again = scenes(20), scenes(20)
    counts = {len(scene.masks) for scene in some}
    assert counts == set(range(FEWEST_THINGS, MOST_THINGS + 1))
    for scene, other in zip(some, again, strict=True):
        assert (scene.masks.sum(axis=0) > 1).mean() < 0.001, "only edges may touch"
        assert np.array_equal(scene.pixels, other.pixels)


@pytest.mark.slow
def test_one_click_in_each_of_two_to_five_things_gives_its_mask(family: Segmenter) -> None:
    found = [ious(answered(family, scene, clicks(scene.masks)), scene.masks) for scene in scenes(40)]
    assert np.mean(np.concatenate(found)) >= CLICK_IOU


@pytest.mark.slow
def test_a_box_around_each_thing_gives_its_mask(family: Segmenter) -> None:
    found = [
        ious(answered(family, scene, [Prompt(label=0, corners=box_of(mask)) for mask in scene.masks]), scene.masks)
        for scene in scenes(40)
    ]
    assert np.mean(np.concatenate(found)) >= BOX_IOU


def boxed(scene: MaskScene) -> Masks:
    """Masks of people who mask the whole box around a thing."""
    corners = [[SIDE_PX * edge for edge in box_of(mask)] for mask in scene.masks]
    outlines = [
        [(left, top), (right, top), (right, bottom), (left, bottom)] for left, top, right, bottom in corners
    ]
    return np.stack([fill_polygon(outline, SIDE_PX, SIDE_PX) for outline in outlines])


@pytest.mark.slow
@pytest.mark.long
def test_lora_on_the_decoder_learns_how_people_outline_things(family: Segmenter) -> None:
    unseen, annotated = scenes(15), scenes(20, seed=UNSEEN_SEED + 1)

    def mean_iou() -> float:
        found = [ious(answered(family, scene, clicks(scene.masks)), boxed(scene)) for scene in unseen]
        return float(np.mean(np.concatenate(found)))

    before = mean_iou()
    inputs = [prepared(family, scene, clicks(scene.masks)) for scene in annotated]
    targets = [
        MasksTarget(tuple((runs_of(mask), 0) for mask in boxed(scene)), SIDE_PX, SIDE_PX) for scene in annotated
    ]
    layers = family.trained_layers(inputs[0].question)
    inputs = list(family.precompute(inputs, layers, None))
    torch.manual_seed(0)
    model = get_peft_model(family.module, LoraConfig(r=8, lora_alpha=16, target_modules=layers))
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=3e-3)
    for step in range(60):
        start = 5 * step % len(inputs)
        losses = family.loss(inputs[start : start + 5], targets[start : start + 5])
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    after = mean_iou()
    assert before < 0.7
    assert after > before + 0.1
