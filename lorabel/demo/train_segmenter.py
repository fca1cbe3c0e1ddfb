"""Trains the demo's segmenter: `python -m lorabel.demo.train_segmenter --out FOLDER --minutes 20`.

A small SAM 2 learns on drawn scenes (`lorabel.demo.mask_scenes`) to obey clicks and boxes. Each picture is asked
about several of its things in one step, so that only the prompts tell the masks apart. All prompts of a step have
one layout: one or two points, a point on the thing and one beside it, a box, or a box with a point.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import Sam2Model

from lorabel.demo.mask_scenes import MaskScene, mask_scenes
from lorabel.families.segmentation.mask_logits import mask_losses
from lorabel.families.segmentation.small_sam2 import save_model, small_config, with_initial_weights

SEED = 0
UNSEEN_SEED = 1
SIDE_PX = 64
WIDTHS, HIDDEN = (32, 64, 96, 128), 64
SCENES, TESTED = 1500, 60
PICTURES, PROMPTS = 6, 6
RATE, WARM_UP_STEPS = 1.5e-3, 100
MOST_GRADIENT = 1.0
AVERAGED = 0.995
"""Share of the earlier average in the average of the weights over the steps, which is what is saved."""
LAYOUTS = ("point", "point", "point", "two points", "signs", "box", "box and point")
JITTER_PX = 1.0
EVERY = 50


@dataclass(frozen=True)
class Batch:
    """Prompts for several pictures: PROMPTS for each.

    Attributes:
        pixels: (pictures, 3, side, side) float32, normalised.
        prompts: arguments of the model.
        masks: (pictures, PROMPTS, side, side) float32: 1 inside.
    """

    pixels: Tensor
    prompts: dict[str, Tensor]
    masks: Tensor


def train(minutes: float, out: Path, start_folder: Path | None = None, rate: float = RATE) -> None:
    """Train for some minutes of CPU time, and write the model. Prints the mean IoU on unseen scenes.

    CPU time of one thread (OMP_NUM_THREADS=1) makes as many steps on a busy machine as on an idle one.

    Args:
        start_folder: the model to go on with; None for a new one.
        rate: the highest learning rate. It falls along a cosine over the minutes.
    """
    seed = SEED if start_folder is None else SEED + 1
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    scenes = list(islice(mask_scenes(SEED, SIDE_PX), SCENES))
    unseen = list(islice(mask_scenes(UNSEEN_SEED, SIDE_PX), TESTED))
    if start_folder is None:
        model = with_initial_weights(Sam2Model(small_config(SIDE_PX, WIDTHS, HIDDEN))).train()
    else:
        model = Sam2Model.from_pretrained(start_folder, dtype=torch.float32).train()
    average = {name: weight.clone() for name, weight in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    start, step = time.process_time(), 0
    while (passed := (time.process_time() - start) / 60 / minutes) < 1:
        step += 1
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / WARM_UP_STEPS) * (0.5 + 0.5 * math.cos(math.pi * passed))
        loss = _loss(model, batch(scenes, rng))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), MOST_GRADIENT)
        optimizer.step()
        _update(average, model, step)
        if step % EVERY == 0:
            print(f"step {step}: {passed:.0%} of the time, loss {loss.item():.3f}", flush=True)
        if step % (6 * EVERY) == 0:
            _save(model, average, unseen, out)
    _save(model, average, unseen, out)


def _save(model: Sam2Model, average: dict[str, Tensor], unseen: Sequence[MaskScene], out: Path) -> None:
    """Write the averaged weights in float16, and print how good they are."""
    averaged = Sam2Model(model.config)
    averaged.load_state_dict(average)
    save_model(averaged.half(), out)
    ious = click_ious(averaged.float().eval(), unseen)
    print(
        f"mean IoU {np.mean(ious):.3f} on unseen scenes, above 0.8: {np.mean(np.array(ious) > 0.8):.2f}",
        flush=True,
    )


def _update(average: dict[str, Tensor], model: Sam2Model, step: int) -> None:
    share = 1 - min(AVERAGED, step / (step + 10))
    for name, weight in model.state_dict().items():
        average[name].lerp_(weight, share)


def _loss(model: Sam2Model, batch: Batch) -> Tensor:
    output = model(pixel_values=batch.pixels, multimask_output=False, **batch.prompts)
    logits, ious = output.pred_masks[:, :, 0].flatten(0, 1), output.iou_scores[:, :, 0].flatten()
    masks = functional.interpolate(batch.masks, size=logits.shape[-2:], mode="area").flatten(0, 1)
    return mask_losses(logits, ious, masks).mean()


def batch(scenes: Sequence[MaskScene], rng: np.random.Generator) -> Batch:
    """Random scenes, mirrored, turned and recoloured at random, with prompts of one layout."""
    layout = str(rng.choice(LAYOUTS))
    pixels, masks, points, boxes = [], [], [], []
    for scene in (scenes[index] for index in rng.integers(len(scenes), size=PICTURES)):
        picture, all_masks = _augmented(scene, rng)
        things = np.resize(rng.permutation(len(all_masks)), PROMPTS)
        pixels.append(picture)
        masks.append(all_masks[things])
        points.append([_points(all_masks, int(thing), layout, rng) for thing in things])
        boxes.append([_box(all_masks[thing], rng) for thing in things])
    prompts: dict[str, Tensor] = {}
    if layout != "box":
        prompts["input_points"] = torch.tensor(np.array(points), dtype=torch.float32)
        signs = [1, 0] if layout == "signs" else [1] * prompts["input_points"].shape[2]
        prompts["input_labels"] = torch.tensor(signs, dtype=torch.int32).expand(PICTURES, PROMPTS, -1)
    if layout in ("box", "box and point"):
        prompts["input_boxes"] = torch.tensor(np.array(boxes), dtype=torch.float32)
    return Batch(normalised(np.stack(pixels)), prompts, torch.from_numpy(np.stack(masks)).float())


@torch.inference_mode()
def click_ious(model: Sam2Model, scenes: Sequence[MaskScene]) -> list[float]:
    """IoU of the mask for one random click in each thing of each scene."""
    rng = np.random.default_rng(SEED)
    ious: list[float] = []
    for scene in scenes:
        points = torch.tensor([[[_click(mask, rng)] for mask in scene.masks]], dtype=torch.float32)
        signs = torch.ones(points.shape[:3], dtype=torch.int32)
        pixels = normalised(scene.pixels[None])
        output = model(pixel_values=pixels, input_points=points, input_labels=signs, multimask_output=False)
        logits = functional.interpolate(output.pred_masks[0], size=scene.masks.shape[-2:], mode="bilinear")
        masks, right = logits[:, 0] > 0, torch.from_numpy(scene.masks)
        ious += ((masks & right).sum(dim=(1, 2)) / (masks | right).sum(dim=(1, 2))).tolist()
    return ious


def normalised(pixels: NDArray[np.uint8]) -> Tensor:
    """(pictures, 3, side, side) float32 in [-1, 1] of (pictures, side, side, 3) uint8."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def _augmented(scene: MaskScene, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    pixels, masks = scene.pixels, scene.masks
    if rng.uniform() < 0.5:
        pixels, masks = pixels[:, ::-1], masks[:, :, ::-1]
    if rng.uniform() < 0.5:
        pixels, masks = pixels[::-1], masks[:, ::-1]
    if rng.uniform() < 0.5:
        pixels, masks = pixels.transpose(1, 0, 2), masks.transpose(0, 2, 1)
    pixels = pixels[..., rng.permutation(3)]
    return (255 - pixels if rng.uniform() < 0.3 else pixels), masks


def _points(
    masks: NDArray[np.bool_], thing: int, layout: str, rng: np.random.Generator
) -> list[tuple[float, float]]:
    first = _click(masks[thing], rng)
    if layout == "two points":
        return [first, _click(masks[thing], rng)]
    if layout == "signs":
        other = (thing + rng.integers(1, len(masks))) % len(masks)
        return [first, _click(masks[other], rng)]
    return [first]


def _click(mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[float, float]:
    """A random pixel (x, y) of a mask."""
    rows, columns = np.nonzero(mask)
    index = rng.integers(len(rows))
    return float(columns[index]), float(rows[index])


def _box(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float64]:
    rows, columns = np.nonzero(mask)
    corners = np.array([columns.min(), rows.min(), columns.max(), rows.max()], float)
    return corners + rng.normal(0, JITTER_PX, 4)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--start", type=Path, help="a model to go on with")
    parser.add_argument("--rate", type=float, default=RATE)
    arguments = parser.parse_args()
    train(arguments.minutes, arguments.out, arguments.start, arguments.rate)


if __name__ == "__main__":
    main()
