"""Trains a tiny MM-GroundingDINO from random weights on scenes that are drawn once.

    python -m lorabel.demo.train_grounding_detector --out tests/data/grounding_detector --minutes 22 --seed 0

Each token of a description learns which things the description is true of. The proposals of the encoder learn the
thing that they lie in; the queries of each layer of the decoder are matched with the things.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss
from transformers import GroundingDinoImageProcessor, MMGroundingDinoForObjectDetection

from lorabel.demo.captions import unknown_words
from lorabel.demo.detector_training import Options, optimizer_for, read_options, schedule, take_steps
from lorabel.demo.scene_queries import Query, random_query, write
from lorabel.demo.scenes import SCENE_COLOURS, SCENE_SHAPES, Scene, Thing, random_scenes
from lorabel.families.detection.matching_loss import ALPHA, GAMMA, match_patches
from lorabel.families.detection.small_grounding_dino import random_model, small_config, wordpiece_tokenizer

SIDE_PX = 64
SIZES = ((64, 64), (64, 64), (64, 48), (48, 64))
STRIDES = (8, 16)
TRAINING_SEED = 1
# Scenes and descriptions of a step.
BATCH, QUERIES = 16, 8
WORDS = (*SCENE_COLOURS, *SCENE_SHAPES, "thing", "with", "hole", "the", "photo", "of")
DELIMITERS = (101, 102, 1012)


@dataclass(frozen=True, slots=True)
class DrawnScenes:
    """Scenes of one size and their pixels, (n, height, width, 3) uint8."""

    scenes: list[Scene]
    pixels: NDArray[np.uint8]


def draw_all(seed: int, size: tuple[int, int], count: int) -> DrawnScenes:
    """Draw scenes of a size."""
    scenes = list(itertools.islice(random_scenes(seed, size), count))
    return DrawnScenes(scenes, np.stack([np.asarray(scene.draw()) for scene in scenes]))


def grid(height: int, width: int) -> Tensor:
    """(positions, 2): the middles of the encoder's positions as fractions of the picture."""
    levels = []
    for stride in STRIDES:
        rows, columns = -(-height // stride), -(-width // stride)
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        levels.append(torch.stack([x.flatten() / columns, y.flatten() / rows], dim=1))
    return torch.cat(levels)


class Trainer:
    """One model, its optimizer and the random choices of one training."""

    def __init__(self, options: Options, model: MMGroundingDinoForObjectDetection, tokenizer: Any) -> None:
        self.options, self.model, self.tokenizer = options, model, tokenizer
        self.random = random.Random(options.seed)
        self.rng = np.random.default_rng(options.seed)
        processor = GroundingDinoImageProcessor()
        self.mean = torch.tensor(processor.image_mean)[None, :, None, None]
        self.std = torch.tensor(processor.image_std)[None, :, None, None]
        self.optimizer = optimizer_for(model, options.learning_rate)

    def step(self, drawn: DrawnScenes, share_done: float) -> dict[str, float]:
        """Do one update. Returns the losses by name."""
        pixels, scenes = self._batch(drawn)
        things = [thing for scene in scenes for thing in scene]
        texts, queries = self._queries(things)
        tokens = self.tokenizer(" ".join(f"{text} ." for text in texts), return_tensors="pt")["input_ids"]
        phrases = phrases_of(tokens[0])
        tokens = tokens.expand(len(pixels), -1)
        outputs = self.model(
            pixel_values=pixels,
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            pixel_mask=torch.ones(pixels.shape[0], *pixels.shape[2:], dtype=torch.long),
        )
        asked, length = phrases >= 0, tokens.shape[1]
        stages = self._stages(outputs, tokens)
        proposals = outputs.enc_outputs_class[..., :length][..., asked]
        corners = box_convert(outputs.enc_outputs_coord_logits.sigmoid(), "cxcywh", "xyxy")
        centres = grid(*pixels.shape[2:])
        losses = {name: torch.zeros(()) for name in ("class", "box", "proposals", "proposed")}
        for row, scene in enumerate(scenes):
            truth, weights = self._truth(scene, queries, len(texts))
            truth, weights = truth[:, phrases[asked]], weights[:, phrases[asked]]
            boxes = torch.tensor([thing.corners for thing in scene]).reshape(-1, 4)
            for logits, places in stages:
                of_class, of_box = matched_losses(logits[row][:, asked], places[row], truth, weights, boxes)
                losses["class"] = losses["class"] + of_class
                losses["box"] = losses["box"] + of_box
            of_class, of_box = dense_losses(proposals[row], corners[row], centres, truth, weights, boxes)
            losses["proposals"] = losses["proposals"] + of_class
            losses["proposed"] = losses["proposed"] + of_box
        losses = {name: loss / max(len(things), 1) for name, loss in losses.items()}
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * schedule(share_done)
        self.optimizer.zero_grad()
        torch.autograd.backward(sum(losses.values(), torch.zeros(())))
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _stages(self, outputs: Any, tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(scenes, queries, tokens) logits and (scenes, queries, 4) corners after each layer of the decoder."""
        mask, stages = torch.ones_like(tokens, dtype=torch.bool), []
        for level in range(outputs.intermediate_hidden_states.shape[1]):
            states = outputs.intermediate_hidden_states[:, level]
            if level:
                reference = outputs.intermediate_reference_points[:, level - 1]
            else:
                reference = outputs.init_reference_points
            logits = self.model.class_embed[level](states, outputs.encoder_last_hidden_state_text, mask)
            boxes = (self.model.bbox_embed[level](states) + torch.special.logit(reference, eps=1e-5)).sigmoid()
            stages.append((logits[..., : tokens.shape[1]], box_convert(boxes, "cxcywh", "xyxy")))
        return stages

    def _batch(self, drawn: DrawnScenes) -> tuple[Tensor, list[list[Thing]]]:
        indices = self.rng.integers(len(drawn.scenes), size=BATCH)
        pixels = torch.from_numpy(drawn.pixels[indices]).permute(0, 3, 1, 2).float() / 255
        pixels = pixels * torch.from_numpy(self.rng.uniform(0.9, 1.08, (len(pixels), 1, 1, 1))).float()
        scenes = [list(drawn.scenes[index].things) for index in indices]
        for row, scene in enumerate(scenes):
            if self.rng.random() < 0.5:
                pixels[row] = pixels[row].clone().flip(2)
                scenes[row] = [mirrored(thing) for thing in scene]
        return (pixels.clamp(0, 1) - self.mean) / self.std, scenes

    def _queries(self, things: Sequence[Thing]) -> tuple[list[str], list[Query]]:
        """Texts of descriptions, then those of words that say nothing; and the descriptions."""
        queries: dict[Query, None] = {}
        while len(queries) < QUERIES - 2:
            thing = self.random.choice(things) if things and self.random.random() < 0.6 else None
            queries[random_query(self.random, thing)] = None
        unknown = [self.random.choice(pair) for pair in unknown_words(2, self.random)]
        texts = [*(write(query, self.random) for query in queries), *unknown]
        # A dot ends a phrase.
        return [text.replace(".", " ") for text in texts], list(queries)

    def _truth(self, scene: Sequence[Thing], queries: Sequence[Query], texts: int) -> tuple[Tensor, Tensor]:
        """Which text is true of which thing, and the weight of each: (things, texts) both."""
        truth = torch.zeros(len(scene), texts)
        weights = torch.ones_like(truth)
        for row, thing in enumerate(scene):
            for column, query in enumerate(queries):
                truth[row, column] = float(query.is_true_of(thing))
                weights[row, column] = float(not query.mixes_into_unseen_pair(thing))
        return truth, weights


def mirrored(thing: Thing) -> Thing:
    """The thing in the mirrored picture; its outline runs from left to right still."""
    return replace(thing, outline=tuple((1 - x, y) for x, y in thing.outline))


def phrases_of(tokens: Tensor) -> Tensor:
    """(seq,) int64: the index of the phrase of each token, -1 for tokens between phrases."""
    is_delimiter: Tensor = torch.isin(tokens, torch.tensor(DELIMITERS))
    phrases: Tensor = torch.where(is_delimiter, torch.tensor(-1), is_delimiter.cumsum(0) - 1)
    return phrases


def matched_losses(
    logits: Tensor, corners: Tensor, truth: Tensor, weights: Tensor, boxes: Tensor
) -> tuple[Tensor, Tensor]:
    """The losses of queries that are matched with the things, by place and by what is true of them."""
    agreement = (logits.detach() @ truth.T) / truth.sum(1).clamp(min=1)
    places, things = match_patches(agreement, corners.detach(), boxes, torch.arange(len(boxes)))
    right, weight = torch.zeros_like(logits), torch.ones_like(logits)
    right[places], weight[places] = truth[things], weights[things]
    of_class = (sigmoid_focal_loss(logits, right, ALPHA, GAMMA) * weight).sum()
    return 2 * of_class, box_loss(corners[places], boxes[things])


def dense_losses(
    logits: Tensor, corners: Tensor, centres: Tensor, truth: Tensor, weights: Tensor, boxes: Tensor
) -> tuple[Tensor, Tensor]:
    """The losses of the encoder's proposals: those near the middle of a thing learn it, those outside silence."""
    right, weight = torch.zeros_like(logits), torch.ones_like(logits)
    rows, things = [], []
    for thing, box in enumerate(boxes):
        middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
        offsets = (centres - middle).abs()
        weight[(offsets < half).all(1)] = 0
        near = (offsets < 0.4 * half).all(1)
        near[offsets.pow(2).sum(1).argmin()] = True
        rows.append(torch.nonzero(near).flatten())
        things += [thing] * int(near.sum())
    if rows:
        chosen, of = torch.cat(rows), torch.tensor(things)
        right[chosen], weight[chosen] = truth[of], weights[of]
        of_box = box_loss(corners[chosen], boxes[of]) / max(1, len(chosen)) * len(boxes)
    else:
        of_box = torch.zeros(())
    return (sigmoid_focal_loss(logits, right, ALPHA, GAMMA) * weight).sum(), of_box


def box_loss(corners: Tensor, boxes: Tensor) -> Tensor:
    """The L1 and generalised IoU losses of some boxes."""
    l1: Tensor = (box_convert(corners, "xyxy", "cxcywh") - box_convert(boxes, "xyxy", "cxcywh")).abs().sum()
    giou: Tensor = generalized_box_iou_loss(corners, boxes, reduction="sum")
    return 5 * l1 + 2 * giou


def train(options: Options) -> None:
    """Draw the scenes, then train for about `options.minutes`. Weights are saved every 100 steps."""
    torch.manual_seed(options.seed)
    tokenizer = wordpiece_tokenizer(WORDS)
    if options.start is None:
        model = random_model(small_config(tokenizer, 128, 48, 20))
    else:
        model = MMGroundingDinoForObjectDetection.from_pretrained(options.start, dtype=torch.float32)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(options.out)
    model.config.save_pretrained(options.out)
    size = {"shortest_edge": SIDE_PX, "longest_edge": SIDE_PX}
    GroundingDinoImageProcessor(size=size).save_pretrained(options.out)
    model.train()
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters", flush=True)
    drawn = [draw_all(TRAINING_SEED + i, size, options.scenes) for i, size in enumerate(SIZES)]
    trainer = Trainer(options, model, tokenizer)
    take_steps(options, model, lambda step, share_done: trainer.step(drawn[step % len(drawn)], share_done))


def main() -> None:
    """Read the options from the command line, and train."""
    train(read_options(__doc__, minutes=22, scenes=3000, learning_rate=1e-3))


if __name__ == "__main__":
    main()
