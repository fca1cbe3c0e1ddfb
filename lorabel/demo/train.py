"""Trains the demo model, a tiny open_clip model, from random weights on pictures that are drawn once.

    python -m lorabel.demo.train --out DIR --minutes 25 --seed 0

The loss is not plain InfoNCE. Each image is classified against sets of captions in which exactly one is right (all
colours, all shapes, all fills, all sizes, and every combination of some attributes in the batch). This needs few
captions per step and has no false negatives. `open_clip.create_model_and_transforms("local-dir:DIR")` loads the
folder without code of ours.
"""

import argparse
import itertools
import json
import math
import random
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional

from lorabel.demo.captions import ATTRIBUTES, WORDS, describe, unknown_words, write
from lorabel.demo.pictures import HELD_OUT_PAIRS, Picture, random_pictures

TRAINING_SEED = 1
"""Seed of the pictures. Evaluation uses other seeds."""
LARGEST_SCALE = 30
"""Upper limit of the logit scale, so that confidences stay below 1."""

CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 128,
        "custom_text": True,
        "vision_cfg": {"timm_model_name": "edgenext_xx_small", "timm_pool": "avg", "image_size": 64},
        "text_cfg": {
            "context_length": 64,
            "vocab_size": 260,
            "hf_tokenizer_name": "bytes",
            "width": 128,
            "heads": 4,
            "layers": 3,
            "pool_type": "eos",
            "pad_id": 0,
            "eos_id": 2,
        },
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}
TOKENIZER_CONFIG: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "pad_token": "<pad>",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "model_max_length": CONFIG["model_cfg"]["text_cfg"]["context_length"],
}
IMAGE_PX: int = CONFIG["model_cfg"]["vision_cfg"]["image_size"]


@dataclass(frozen=True, slots=True)
class Options:
    """Options of one training.

    Attributes:
        minutes: duration of the training; drawing the pictures comes before it.
        pictures: how many are drawn.
        batch: pictures per step.
        caption_share: share of the steps that train the text tower.
        start: folder of a model whose training is continued; None for random weights.
    """

    out: Path
    minutes: float
    seed: int = 0
    pictures: int = 40_000
    batch: int = 64
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    caption_share: float = 1.0
    start: Path | None = None


@dataclass(frozen=True, slots=True)
class DrawnPictures:
    """Pictures and their pixels, (n, side, side, 3) uint8."""

    pictures: list[Picture]
    pixels: NDArray[np.uint8]


def byte_tokenizer() -> Tokenizer:
    """A tokenizer whose tokens are UTF-8 bytes, so that it can read any label.

    Token ids: `<pad>` 0, `<bos>` 1, `<eos>` 2, bytes from 3.
    """
    symbols = ["<pad>", "<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={symbol: token for token, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    ends = [("<bos>", 1), ("<eos>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
    return tokenizer


def prepare(out: Path) -> None:
    """Write the config and the tokenizer, which open_clip needs to build the model."""
    out.mkdir(parents=True, exist_ok=True)
    byte_tokenizer().save(str(out / "tokenizer.json"))
    for name, content in (("open_clip_config.json", CONFIG), ("tokenizer_config.json", TOKENIZER_CONFIG)):
        (out / name).write_text(json.dumps(content, indent=2) + "\n")


def save(model: nn.Module, out: Path) -> None:
    """Write the weights as float16, which halves the file. They are loaded as float32.

    The file is replaced atomically.
    """
    weights = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    partial = out / "open_clip_model.partial"
    save_file(weights, partial)
    partial.chmod(0o644)
    partial.replace(out / "open_clip_model.safetensors")


def initialise(model: nn.Module) -> None:
    """Set larger initial weights than timm does: with timm's, blocks change almost nothing for a long time."""
    for name, parameter in model.named_parameters():
        if ".gamma" in name:
            nn.init.constant_(parameter, 0.5)
        elif name.startswith("visual.") and parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter, mode="fan_in", nonlinearity="linear")
        elif name.startswith("visual.") and parameter.ndim == 2:
            nn.init.xavier_normal_(parameter)


def draw_all(pictures: list[Picture], side_px: int = IMAGE_PX) -> DrawnPictures:
    """Draw the pictures on all cores."""
    with ProcessPoolExecutor() as pool:
        pixels = list(pool.map(_pixels, pictures, itertools.repeat(side_px), chunksize=200))
    return DrawnPictures(pictures, np.stack(pixels))


def _pixels(picture: Picture, side_px: int) -> NDArray[np.uint8]:
    return np.asarray(picture.draw(side_px))


def augment(pixels: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
    """Normalise the pixels and change the pictures at random: mirror, move, brighten or darken, blur a little.

    Args:
        pixels: (n, side, side, 3) uint8.

    Returns:
        (n, 3, side, side) float32.
    """
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mirrored = torch.from_numpy(rng.random(len(images)) < 0.5)
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    pad = 4
    left, top = rng.integers(0, 2 * pad + 1, 2)
    side = images.shape[-1]
    images = functional.pad(images, (pad,) * 4, mode="replicate")[..., top : top + side, left : left + side]
    images = images * torch.from_numpy(rng.uniform(0.93, 1.05, (len(images), 1, 1, 1))).float()
    if rng.random() < 0.25:
        images = (
            functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1) * 0.6
            + images * 0.4
        )
    return (images.clamp(0, 1) - 0.5) / 0.25


class Trainer:
    """One model, its optimizer and the random choices of one training.

    `anchors` has one vector for each word, (words, dim), and is not saved. Images are classified against the
    anchors, and captions against sums of anchors, so that each tower can learn before the other has learned.
    Images are also classified against the captions themselves.
    """

    def __init__(self, options: Options, model: Any, tokenizer: Any) -> None:
        self.options, self.model, self.tokenizer = options, model, tokenizer
        self.mask: Tensor = model.text.attn_mask
        self.caption_rng = random.Random(options.seed)
        self.rng = np.random.default_rng(options.seed)
        words = [word for name in ATTRIBUTES for word in WORDS[name]]
        self.anchor_row = {word: row for row, word in enumerate(words)}
        self.anchors = nn.Parameter(self._first_anchors())
        decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
        others = [parameter for parameter in model.parameters() if parameter.ndim < 2] + [self.anchors]
        groups = [
            {"params": decayed, "weight_decay": options.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98))

    @torch.no_grad()
    def _first_anchors(self) -> Tensor:
        """Initial anchors, (words, dim): orthogonal, or text features of the model in `options.start`."""
        if self.options.start is not None:
            return self._encode(list(self.anchor_row))
        return nn.init.orthogonal_(torch.empty(len(self.anchor_row), CONFIG["model_cfg"]["embed_dim"]))

    def step(self, drawn: DrawnPictures, share_done: float) -> dict[str, float]:
        """Do one update.

        Args:
            share_done: share of the training time that is over, 0 to 1.

        Returns:
            The losses by name.
        """
        indices = self.rng.integers(len(drawn.pictures), size=self.options.batch)
        pictures = [drawn.pictures[index] for index in indices]
        images = augment(drawn.pixels[indices], self.rng).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.model.encode_image(images, normalize=True)
        losses = {"words": self._words(features, pictures)}
        if self.caption_rng.random() < self.options.caption_share:
            losses |= self._captions(features, pictures)
        if self.caption_rng.random() < 0.25 * self.options.caption_share:
            losses["unknown"] = self._unknown()
        self._update(sum(losses.values(), torch.zeros(())), self.options.learning_rate * schedule(share_done))
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _update(self, loss: Tensor, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(LARGEST_SCALE))

    def _encode(self, texts: list[str]) -> Tensor:
        """Text features, (n, dim), of length 1. Padding is cut off, which changes nothing under a causal mask."""
        tokens = self.tokenizer(texts)
        length = int((tokens != 0).sum(1).max())
        self.model.text.attn_mask = self.mask[:length, :length]
        features: Tensor = self.model.encode_text(tokens[:, :length], normalize=True)
        self.model.text.attn_mask = self.mask
        return features

    def _scale(self) -> Tensor:
        scale: Tensor = self.model.logit_scale.exp()
        return scale

    def _words(self, features: Tensor, pictures: list[Picture]) -> Tensor:
        """Loss of the classification of each image among all colours, all shapes, all fills and all sizes."""
        loss = torch.zeros(())
        for name in ATTRIBUTES:
            anchors = functional.normalize(self.anchors[[self.anchor_row[word] for word in WORDS[name]]], dim=-1)
            targets = torch.tensor([WORDS[name].index(getattr(picture, name)) for picture in pictures])
            hidden = mixes_into_held_out(pictures, [{name: word} for word in WORDS[name]])
            logits = (self._scale() * features @ anchors.T).masked_fill(hidden, float("-inf"))
            loss = loss + functional.cross_entropy(logits, targets)
        return loss

    def _captions(self, features: Tensor, pictures: list[Picture]) -> dict[str, Tensor]:
        """Losses of the classification of images among captions, and of captions among sums of anchors."""
        names = self._random_attributes()
        combinations = [tuple(describe(picture, names).items()) for picture in pictures]
        distinct = list(dict.fromkeys(combinations))
        texts = self._encode([write(dict(combination), self.caption_rng) for combination in distinct])
        rows = torch.tensor([[self.anchor_row[word] for _, word in combination] for combination in distinct])
        sums = functional.normalize(functional.normalize(self.anchors, dim=-1)[rows].sum(1), dim=-1)
        targets = torch.tensor([distinct.index(combination) for combination in combinations])
        hidden = mixes_into_held_out(pictures, [dict(combination) for combination in distinct])
        logits = (self._scale() * features @ texts.T).masked_fill(hidden, float("-inf"))
        return {
            "captions": functional.cross_entropy(logits, targets),
            "sums": functional.cross_entropy(self._scale() * texts @ sums.T, torch.arange(len(distinct))),
        }

    def _random_attributes(self) -> tuple[str, ...]:
        draw = self.caption_rng.random()
        if draw < 0.35:
            return ("colour", "shape")
        return tuple(self.caption_rng.sample(ATTRIBUTES, 1 if draw < 0.65 else self.caption_rng.randint(2, 4)))

    def _unknown(self) -> Tensor:
        """Loss of telling apart labels without meaning, each written in two ways."""
        pairs = unknown_words(16, self.caption_rng)
        texts = self._encode([text for pair in pairs for text in pair])
        logits = self._scale() * texts[0::2] @ texts[1::2].T
        return functional.cross_entropy(logits, torch.arange(len(pairs)))


def mixes_into_held_out(pictures: list[Picture], captions: list[dict[str, str]]) -> Tensor:
    """Whether the colour of a picture and the shape of a caption, or the reverse, are a held-out pair.

    Such a caption is not offered as a wrong answer. Otherwise the model would learn that red things are not moons,
    because it never sees a red moon.

    Returns:
        (pictures, captions) bool.
    """
    rows = [
        [
            (picture.colour, words.get("shape")) in HELD_OUT_PAIRS
            or (words.get("colour"), picture.shape) in HELD_OUT_PAIRS
            for words in captions
        ]
        for picture in pictures
    ]
    return torch.tensor(rows)


def schedule(share_done: float) -> float:
    """Factor on the learning rate: a rise in the first twentieth of the time, then a cosine down to almost 0."""
    return min(1.0, share_done / 0.05 + 0.02) * (0.01 + 0.99 * (1 + math.cos(math.pi * min(share_done, 1.0))) / 2)


def train(options: Options) -> None:
    """Draw the pictures, then train for about `options.minutes`. Weights are saved every 200 steps."""
    torch.manual_seed(options.seed)
    prepare(options.out)
    if options.start is None:
        model = open_clip.create_model(f"local-dir:{options.out}", load_weights=False)
        initialise(model)
    else:
        model = open_clip.create_model(f"local-dir:{options.start}")
    model.to(memory_format=torch.channels_last).train()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{options.out}")
    started = time.monotonic()
    drawn = draw_all(list(itertools.islice(random_pictures(TRAINING_SEED, held_out=False), options.pictures)))
    print(f"{len(drawn.pictures)} pictures drawn in {time.monotonic() - started:.0f} s", flush=True)
    trainer = Trainer(options, model, tokenizer)
    started, losses = time.monotonic(), []
    for step in itertools.count(1):
        share_done = (time.monotonic() - started) / (60 * options.minutes)
        if share_done >= 1:
            break
        losses.append(trainer.step(drawn, share_done))
        if step % 100 == 0:
            recent = {name: _mean(losses[-100:], name) for name in ("words", "captions", "sums", "unknown")}
            figures = " ".join(f"{name} {value:.2f}" for name, value in recent.items())
            print(f"step {step} {figures}; {share_done:.0%} done", flush=True)
        if step % 200 == 0:
            save(model, options.out)
    save(model, options.out)


def _mean(losses: list[dict[str, float]], name: str) -> float:
    return float(np.mean([step_losses[name] for step_losses in losses if name in step_losses]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--caption-share", type=float, default=1.0, help="of the steps that train the text tower")
    parser.add_argument("--start", type=Path, help="folder of a model to train on, instead of a new one")
    parser.add_argument("--pictures", type=int, default=40_000)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    train(Options(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
