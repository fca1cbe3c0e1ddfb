"""Measures the demo model on pictures that it was not trained on, and prints the tables of its README.

    python -m lorabel.demo.evaluate [--model DIR]

- Zero-shot: the labels say what is in the picture.
- Unknown meaning: the labels are `grade A`, `grade B` and `grade C`, and a rule that the words do not tell decides
  which one is right. Measured before and after LoRA on 40 or 80 annotated pictures.

The recipe here is the smallest that works. The product's training also replays, evaluates and stops early.
"""

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import open_clip
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional

from lorabel.demo import MODEL_FOLDER
from lorabel.demo.captions import WORDS
from lorabel.demo.pictures import Picture, random_pictures
from lorabel.families.encoders.attention import separate_attention

TEMPLATES = ("{}", "a photo of a {}.")
UNKNOWN_LABELS = ("grade A", "grade B", "grade C")
GROUPS: MappingProxyType[str, tuple[str, str, str]] = MappingProxyType(
    {
        "colour": ("red orange yellow pink", "green blue purple", "brown black white"),
        "shape": ("circle heart flower moon", "square diamond triangle", "star cross arrow"),
        "fill": ("solid", "striped", "outlined"),
    }
)
"""For each attribute: the words of pictures of grade A, of grade B and of grade C."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """LoRA on every linear layer of the text tower, over image features that are computed once.

    The image tower is not trained: its LoRA would learn 40 pictures by heart, and accuracy would fall.
    The learning rate falls linearly to 0.

    Attributes:
        scale: factor on the cosines in training, instead of the model's own logit scale (28.6). With the latter,
            the loss is near 0 before the text features have moved far enough.
    """

    rank: int = 8
    alpha: int = 16
    learning_rate: float = 5e-3
    weight_decay: float = 0.01
    steps: int = 60
    warmup_steps: int = 5
    scale: float = 10.0


class DemoModel:
    """The model with its transform and tokenizer, as open_clip loads them. Float32, on the CPU."""

    def __init__(self, folder: Path = MODEL_FOLDER) -> None:
        self.model, _, self.transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        separate_attention(self.model).eval()

    def pixels(self, pictures: Sequence[Picture], side_px: int = 64) -> Tensor:
        """The model's input, (n, 3, 64, 64) float32. `side_px` is the side of the pictures as they are drawn."""
        return torch.stack([self.transform(picture.draw(side_px)) for picture in pictures])

    @torch.no_grad()
    def choose(self, pixels: Tensor, labels: Sequence[str], template: str = "{}") -> list[int]:
        """The index of the best label for each picture."""
        tokens = self.tokenizer([template.format(label) for label in labels])
        texts = self.model.encode_text(tokens, normalize=True)
        indices: list[int] = (self.image_features(pixels) @ texts.T).argmax(dim=1).tolist()
        return indices

    @torch.no_grad()
    def image_features(self, pixels: Tensor) -> Tensor:
        """Features of the pictures, (n, dim), of length 1."""
        batches = torch.split(pixels, 128)
        return torch.cat([self.model.encode_image(batch, normalize=True) for batch in batches])


def measure(
    model: DemoModel,
    pictures: Sequence[Picture],
    attributes: Sequence[str],
    template: str = "{}",
    side_px: int = 64,
) -> float:
    """Zero-shot accuracy. The labels are all words of one attribute (`red`) or all combinations (`red circle`)."""
    labels = [" ".join(words) for words in itertools.product(*(WORDS[name] for name in attributes))]
    truth = [labels.index(" ".join(getattr(picture, name) for name in attributes)) for picture in pictures]
    return _accuracy(model.choose(model.pixels(pictures, side_px), labels, template), truth)


def grade(picture: Picture, attribute: str) -> int:
    """The index in UNKNOWN_LABELS of the label that is right by the rule of `GROUPS[attribute]`."""
    word = getattr(picture, attribute)
    return next(index for index, words in enumerate(GROUPS[attribute]) if word in words.split())


def fine_tune(model: DemoModel, pixels: Tensor, truth: Tensor, labels: Sequence[str], recipe: Recipe) -> None:
    """Train LoRA with cross-entropy over the label texts. Every step sees every picture.

    Args:
        pixels: (n, 3, 64, 64) float32.
        truth: (n,) int64, the index of the right label.
    """
    layers = [
        name for name, layer in model.model.text.named_modules(prefix="text") if isinstance(layer, nn.Linear)
    ]
    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=layers)
    parameters = get_peft_model(model.model, config).parameters()
    trained_parameters = [parameter for parameter in parameters if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained_parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    tokens, images = model.tokenizer(list(labels)), model.image_features(pixels)
    for step in range(recipe.steps):
        share = min(1.0, (step + 1) / recipe.warmup_steps) * (1 - step / recipe.steps)
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * share
        texts = model.model.encode_text(tokens, normalize=True)
        loss = functional.cross_entropy(recipe.scale * images @ texts.T, truth)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()


def measure_unknown(
    attribute: str, seed: int, recipe: Recipe, folder: Path = MODEL_FOLDER, annotations: int = 40
) -> tuple[float, float, float]:
    """Accuracy on 300 other pictures before and after fine-tuning, and the seconds that fine-tuning took."""
    torch.manual_seed(seed)
    model = DemoModel(folder)
    annotated_pictures = list(itertools.islice(random_pictures(100 + seed), annotations))
    other_pictures = list(itertools.islice(random_pictures(500 + seed), 300))
    truth = [grade(picture, attribute) for picture in other_pictures]
    pixels, other_pixels = model.pixels(annotated_pictures), model.pixels(other_pictures)
    before = _accuracy(model.choose(other_pixels, UNKNOWN_LABELS), truth)
    started = time.monotonic()
    grades = torch.tensor([grade(picture, attribute) for picture in annotated_pictures])
    fine_tune(model, pixels, grades, UNKNOWN_LABELS, recipe)
    took_s = time.monotonic() - started
    return before, _accuracy(model.choose(other_pixels, UNKNOWN_LABELS), truth), took_s


def _accuracy(chosen: Sequence[int], truth: Sequence[int]) -> float:
    return sum(index == right_index for index, right_index in zip(chosen, truth, strict=True)) / len(truth)


def print_zero_shot(folder: Path, count: int) -> None:
    model = DemoModel(folder)
    print("| labels | pictures | " + " | ".join(f"`{template}`" for template in TEMPLATES) + " |")
    print("|---|---|" + "---|" * len(TEMPLATES))
    attribute_sets = [("colour",), ("shape",), ("fill",), ("size",), ("colour", "shape"), ("fill", "shape")]
    draws: list[tuple[str, int, bool, int]] = [
        ("pairs seen in training", 2, False, 64),
        ("pairs never seen", 3, True, 64),
        ("pairs never seen, drawn at 256 px", 4, True, 256),
    ]
    for description, seed, held_out, side_px in draws:
        pictures = list(itertools.islice(random_pictures(seed, held_out=held_out), count))
        for attributes in attribute_sets:
            accuracies = [measure(model, pictures, attributes, template, side_px) for template in TEMPLATES]
            names = ", ".join(attributes)
            cells = " | ".join(f"{accuracy:.1%}" for accuracy in accuracies)
            print(f"| {names} | {description} | {cells} |")


def print_unknown(folder: Path, seeds: Sequence[int], recipe: Recipe) -> None:
    print("\n| grades decided by | annotations | before | after | seconds |")
    print("|---|---|---|---|---|")
    for attribute, annotations in itertools.product(GROUPS, (40, 80)):
        results = [measure_unknown(attribute, seed, recipe, folder, annotations) for seed in seeds]
        before = ", ".join(f"{result[0]:.0%}" for result in results)
        after = ", ".join(f"{result[1]:.1%}" for result in results)
        seconds = ", ".join(f"{result[2]:.1f}" for result in results)
        print(f"| {attribute} | {annotations} | {before} | {after} | {seconds} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print_zero_shot(options.model, options.pictures)
    print_unknown(options.model, range(options.seeds), Recipe())


if __name__ == "__main__":
    main()
