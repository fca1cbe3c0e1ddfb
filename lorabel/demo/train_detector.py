"""Trains the demo's detector, a tiny OWLv2, from random weights on scenes that are drawn once.

    python -m lorabel.demo.train_detector --out DIR --minutes 24 --seed 0

The patch that lies nearest to the middle of a thing learns the thing's box and which queries are true of it.
Patches that are far from all things learn that nothing is there. `Owlv2ForObjectDetection.from_pretrained(DIR)`
and `AutoTokenizer.from_pretrained(DIR)` load the folder without code of ours.
"""

import itertools
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert, generalized_box_iou_loss
from transformers import Owlv2ForObjectDetection, Owlv2ImageProcessor, PreTrainedTokenizerFast

from lorabel.demo.captions import unknown_words
from lorabel.demo.detector_training import Options, optimizer_for, read_options, schedule, take_steps
from lorabel.demo.scene_queries import Query, random_query, write
from lorabel.demo.scenes import Scene, Thing, random_scenes
from lorabel.families.detection.owlv2 import byte_level_tokenizer, random_model

SIDE_PX = 96
PATCH_PX = 12
GRID = SIDE_PX // PATCH_PX
TRAINING_SEED = 1
"""Seed of the scenes. Evaluation uses other seeds."""
# Scenes and descriptions of a step.
BATCH, QUERIES = 32, 32
CONFIG: dict[str, Any] = {
    "projection_dim": 128,
    "text_config": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
    },
    "vision_config": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": SIDE_PX,
        "patch_size": PATCH_PX,
        "hidden_act": "gelu",
    },
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that has the words of the queries as single tokens, and can read any label."""
    rng = random.Random(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, min_frequency=50, show_progress=False)
    tokenizer.train_from_iterator((write(random_query(rng), rng) for _ in range(20_000)), trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    symbols = sorted(trained["vocab"], key=trained["vocab"].__getitem__)
    merges = [(left, right) for left, right in trained["merges"]]
    return byte_level_tokenizer(symbols, merges, CONFIG["text_config"]["max_position_embeddings"])


@dataclass(frozen=True, slots=True)
class DrawnScenes:
    """Scenes and their pixels, (n, side, side, 3) uint8, black where a scene is not square.

    Attributes:
        boxes: for each scene (things, 4) corners as fractions of the square.
    """

    scenes: list[Scene]
    pixels: NDArray[np.uint8]
    boxes: list[NDArray[np.float32]]


def draw_all(scenes: Sequence[Scene]) -> DrawnScenes:
    """Draw the scenes onto squares, each in the upper left corner, as OWLv2 pads pictures."""
    pixels = np.zeros((len(scenes), SIDE_PX, SIDE_PX, 3), np.uint8)
    boxes = []
    for index, scene in enumerate(scenes):
        width, height = scene.size
        pixels[index, :height, :width] = np.asarray(scene.draw())
        shares = np.array([width, height, width, height]) / SIDE_PX
        corners = np.array([thing.corners for thing in scene.things], np.float32).reshape(-1, 4)
        boxes.append((corners * shares).astype(np.float32))
    return DrawnScenes(list(scenes), pixels, boxes)


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step learns from.

    Attributes:
        rows, cells: (things,) int64: the scene and the patch of each thing.
        boxes: (things, 4) corners as fractions of the square.
        things: in the same order.
        near: (batch, patches) bool: patches near the middle of a thing, which learn nothing about labels.
        inside: (batch, patches) int64: for patches well within a thing its index, else -1; they learn its box.
    """

    pixels: Tensor
    rows: Tensor
    cells: Tensor
    boxes: Tensor
    things: list[Thing]
    near: Tensor
    inside: Tensor


class Trainer:
    """One model, its optimizer and the random choices of one training."""

    def __init__(
        self, options: Options, model: Owlv2ForObjectDetection, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        self.options, self.model, self.tokenizer = options, model, tokenizer
        self.random = random.Random(options.seed)
        self.rng = np.random.default_rng(options.seed)
        processor = Owlv2ImageProcessor()
        self.mean = torch.tensor(processor.image_mean)[None, :, None, None]
        self.std = torch.tensor(processor.image_std)[None, :, None, None]
        self.optimizer = optimizer_for(model, options.learning_rate)
        centres = (torch.arange(GRID) + 0.5) / GRID
        self.centres = torch.stack([centres.repeat(GRID), centres.repeat_interleave(GRID)], dim=1)

    def step(self, drawn: DrawnScenes, share_done: float) -> dict[str, float]:
        """Do one update. Returns the losses by name."""
        batch = self._batch(drawn)
        texts, truth, weights = self._queries(batch.things)
        features = self.model.image_embedder(batch.pixels)[0]
        flat = features.flatten(1, 2)
        encoding = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        queries = self.model.owlv2.get_text_features(
            input_ids=encoding["input_ids"], attention_mask=encoding["attention_mask"]
        ).pooler_output
        logits, _ = self.model.class_predictor(flat, queries[None].expand(len(flat), -1, -1))
        boxes = self.model.box_predictor(flat, features)
        objects = self.model.objectness_predictor(flat)
        losses = self._losses(batch, logits, boxes, objects, truth, weights)
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * schedule(share_done)
        self.optimizer.zero_grad()
        torch.autograd.backward(sum(losses.values(), torch.zeros(())))
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _losses(
        self, batch: Batch, logits: Tensor, boxes: Tensor, objects: Tensor, truth: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
        things = max(len(batch.rows), 1)
        positive = functional.binary_cross_entropy_with_logits(
            logits[batch.rows, batch.cells], truth, weights, reduction="sum"
        )
        empty = ~batch.near
        nothing = logits[empty]
        negative = (functional.softplus(nothing) * nothing.detach().sigmoid() ** 2).sum()
        row, cell = torch.nonzero(batch.inside >= 0, as_tuple=True)
        predicted, right = boxes[row, cell], batch.boxes[batch.inside[row, cell]]
        l1, giou = box_losses(predicted, right)
        is_object = torch.zeros_like(objects)
        is_object[batch.rows, batch.cells] = 1
        objectness = functional.binary_cross_entropy_with_logits(objects, is_object)
        return {
            "true": positive / things,
            "nothing": negative / things,
            "l1": 5 * l1.mean(),
            "giou": 2 * giou.mean(),
            "objectness": objectness,
        }

    def _batch(self, drawn: DrawnScenes) -> Batch:
        indices = self.rng.integers(len(drawn.scenes), size=BATCH)
        pixels = torch.from_numpy(drawn.pixels[indices]).permute(0, 3, 1, 2).float() / 255
        pixels = pixels * torch.from_numpy(self.rng.uniform(0.9, 1.08, (len(pixels), 1, 1, 1))).float()
        rows: list[int] = []
        cells: list[int] = []
        boxes: list[Tensor] = []
        things: list[Thing] = []
        near = torch.zeros(len(pixels), GRID * GRID, dtype=torch.bool)
        inside = torch.full((len(pixels), GRID * GRID), -1)
        for row, index in enumerate(indices):
            scene, corners = drawn.scenes[index], torch.from_numpy(drawn.boxes[index])
            if scene.size[0] == scene.size[1]:
                pixels[row], corners = self._turned(pixels[row].clone(), corners)
            for thing, box in zip(scene.things, corners, strict=True):
                middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
                offsets = (self.centres - middle).abs()
                cell = int(offsets.pow(2).sum(1).argmin())
                near[row] |= (offsets < 0.8 / GRID).all(1)
                within = (offsets < 0.5 * half).all(1)
                within[cell] = True
                inside[row][within] = len(rows)
                rows.append(row)
                cells.append(cell)
                boxes.append(box)
                things.append(thing)
        corners_of_all = torch.stack(boxes) if boxes else torch.zeros(0, 4)
        pixels = (pixels.clamp(0, 1) - self.mean) / self.std
        return Batch(pixels, torch.tensor(rows), torch.tensor(cells), corners_of_all, things, near, inside)

    def _turned(self, pixels: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
        """A square scene mirrored and transposed at random; triangles then also point down and sideways."""
        if self.rng.random() < 0.5:
            pixels, corners = (
                pixels.flip(2),
                torch.stack([1 - corners[:, 2], corners[:, 1], 1 - corners[:, 0], corners[:, 3]], dim=1),
            )
        if self.rng.random() < 0.3:
            pixels, corners = pixels.transpose(1, 2), corners[:, [1, 0, 3, 2]]
        return pixels, corners

    def _queries(self, things: Sequence[Thing]) -> tuple[list[str], Tensor, Tensor]:
        """Texts, which are true of which thing, and the weight of each in the loss: (things, texts) both."""
        queries: dict[Query, None] = {}
        while len(queries) < QUERIES - 4:
            thing = self.random.choice(things) if things and self.random.random() < 0.6 else None
            queries[random_query(self.random, thing)] = None
        texts = [write(query, self.random) for query in queries]
        unknown = [self.random.choice(pair) for pair in unknown_words(4, self.random)]
        truth = torch.zeros(len(things), len(texts) + len(unknown))
        weights = torch.ones_like(truth)
        for row, thing in enumerate(things):
            for column, query in enumerate(queries):
                truth[row, column] = float(query.is_true_of(thing))
                weights[row, column] = float(not query.mixes_into_unseen_pair(thing))
        weights[:, len(texts) :] = 0.3
        return texts + unknown, truth, weights


def box_losses(predicted: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """L1 and generalised IoU losses.

    Args:
        predicted: (boxes, 4) centre, width and height.
        right: (boxes, 4) corners.

    Returns:
        Two (boxes,) tensors.
    """
    corners = box_convert(predicted, "cxcywh", "xyxy")
    l1 = (predicted - box_convert(right, "xyxy", "cxcywh")).abs().sum(1)
    giou: Tensor = generalized_box_iou_loss(corners, right)
    return l1, giou


def train(options: Options) -> None:
    """Draw the scenes, then train for about `options.minutes`. Weights are saved every 100 steps."""
    torch.manual_seed(options.seed)
    tokenizer = build_tokenizer()
    if options.start is None:
        model = random_model(CONFIG, tokenizer)
    else:
        model = Owlv2ForObjectDetection.from_pretrained(options.start, dtype=torch.float32)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(options.out)
    model.config.save_pretrained(options.out)
    Owlv2ImageProcessor(size={"height": SIDE_PX, "width": SIDE_PX}).save_pretrained(options.out)
    model.train()
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters", flush=True)
    started = time.monotonic()
    drawn = draw_all(list(itertools.islice(random_scenes(TRAINING_SEED), options.scenes)))
    print(f"{len(drawn.scenes)} scenes drawn in {time.monotonic() - started:.0f} s", flush=True)
    trainer = Trainer(options, model, tokenizer)
    take_steps(options, model, lambda step, share_done: trainer.step(drawn, share_done))


def main() -> None:
    """Read the options from the command line, and train."""
    train(read_options(__doc__, minutes=24, scenes=10_000, learning_rate=1.5e-3))


if __name__ == "__main__":
    main()
