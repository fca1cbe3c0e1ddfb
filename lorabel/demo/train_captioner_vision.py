"""Trains the vision part of the demo's captioner: each patch learns what thing it lies in.

    python -m lorabel.demo.train_captioner_vision --out EYES --minutes 8

It learns the thing's colour, its shape, how many things look like it, whether they are the kind that a caption
names first, and whether the patch has the thing's middle. Then `train_captioner` trains the language model.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import SmolVLMForConditionalGeneration

from lorabel.demo.captioner_model import GRID, PLACEHOLDERS, WIDTH, build_model, build_tokenizer
from lorabel.demo.counted_scenes import MOST_OF_A_KIND, SIDE_PX, counted_scenes
from lorabel.demo.detector_training import Options, optimizer_for, read_options, schedule, take_steps
from lorabel.demo.drawn_scenes import DrawnScenes, as_pixels, draw_scenes, vary
from lorabel.demo.scenes import SCENE_COLOURS, SCENE_SHAPES, Scene
from lorabel.families.generation.tiny_models import picture_processor

BATCH = 48
GREY_SHARE = 0.5
"""Share of pictures shown without colours, so that no shape is told by the colours that it has been seen in."""
NOT_A_TARGET = -100
CLASSES = {
    "colour": 1 + len(SCENE_COLOURS),
    "shape": 1 + len(SCENE_SHAPES),
    "count": 1 + MOST_OF_A_KIND,
    "rank": 3,
    "middle": 2,
}
"""What a patch learns, and how many values that has. 0 stands for the ground, or for no middle."""
TOLD_WITHOUT_COLOURS = ("shape", "middle")


@dataclass(frozen=True, slots=True)
class VisionTrainer:
    """The vision part, what reads the patches, and the random choices of one training."""

    options: Options
    vision: nn.Module
    head: nn.Linear
    optimizer: torch.optim.Optimizer
    rng: np.random.Generator

    def step(self, drawn: DrawnScenes, share_done: float) -> dict[str, float]:
        """Do one update. Returns the losses by name."""
        indices = self.rng.integers(len(drawn.kinds), size=BATCH)
        pixels, is_mirrored = vary(as_pixels(drawn.pixels[indices]), self.rng)
        is_grey = self.rng.random(BATCH) < GREY_SHARE
        pixels = without_colours(pixels, is_grey, self.rng)
        with torch.autocast("cpu", torch.bfloat16):
            patches = self.head(self.vision(2 * pixels - 1).last_hidden_state).float().flatten(0, 1)
        losses: dict[str, Tensor] = {}
        for name, logits in zip(CLASSES, patches.split(list(CLASSES.values()), dim=1), strict=True):
            right = drawn.of_patches[name][indices]
            right[is_mirrored] = right[is_mirrored][:, :, ::-1]
            if name not in TOLD_WITHOUT_COLOURS:
                right[is_grey] = NOT_A_TARGET
            losses[name] = functional.cross_entropy(logits, torch.from_numpy(right).flatten())
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * schedule(share_done)
        self.optimizer.zero_grad()
        torch.autograd.backward(sum(losses.values(), torch.zeros(())))
        nn.utils.clip_grad_norm_(self.vision.parameters(), 1.0)
        self.optimizer.step()
        return {name: float(loss.detach()) for name, loss in losses.items()}


def without_colours(pixels: Tensor, is_grey: NDArray[np.bool_], rng: np.random.Generator) -> Tensor:
    """Show some pictures (n, 3, side, side) in grey: a mixture of their three colours, each time another."""
    shares = torch.from_numpy(rng.dirichlet((1, 1, 1), len(pixels))).float()
    grey = (pixels * shares[:, :, None, None]).sum(1, keepdim=True).expand_as(pixels)
    return torch.where(torch.from_numpy(is_grey)[:, None, None, None], grey, pixels)


def many_scenes(seed: int, sides_px: tuple[int, ...], count: int) -> list[Scene]:
    """Scenes that are drawn in several sizes."""
    scenes: list[Scene] = []
    for index, side_px in enumerate(sides_px):
        scenes += itertools.islice(counted_scenes(seed + index, side_px=side_px), count // len(sides_px))
    return scenes


def write_all_but_weights(model: SmolVLMForConditionalGeneration, tokenizer: Any, options: Options) -> None:
    """Write the files of a folder that transformers loads, without the weights."""
    options.out.mkdir(parents=True, exist_ok=True)
    picture_processor(tokenizer, SIDE_PX, PLACEHOLDERS).save_pretrained(options.out)
    model.config.save_pretrained(options.out)
    model.generation_config.save_pretrained(options.out)


def main() -> None:
    """Train, and save the folder again and again."""
    options = read_options(__doc__, minutes=8, scenes=12_000, learning_rate=1e-3)
    torch.manual_seed(options.seed)
    drawn = draw_scenes(many_scenes(1, (72, 96, 128), options.scenes), GRID)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, as_pixels(drawn.pixels[::20]))
    write_all_but_weights(model, tokenizer, options)
    # On a CPU, gradients of the fused attention in bfloat16 take more time than all the rest.
    model.train().set_attn_implementation("eager")
    vision, head = model.model.vision_model, nn.Linear(WIDTH, sum(CLASSES.values()))
    optimizer = optimizer_for(nn.ModuleList([vision, head]), options.learning_rate)
    trainer = VisionTrainer(options, vision, head, optimizer, np.random.default_rng(options.seed))
    take_steps(options, model, lambda _, share_done: trainer.step(drawn, share_done))


if __name__ == "__main__":
    main()
