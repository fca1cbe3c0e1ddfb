"""Trains the demo's captioner, a tiny SmolVLM, from random weights on scenes that are drawn once.

    python -m lorabel.demo.train_captioner --out EYES --minutes 5 --seed 0
    python -m lorabel.demo.train_captioner --start EYES --out DIR --minutes 30 --seed 1

The first command trains the vision part: each patch learns what thing it lies in. The second command leaves the
vision part as it is, and trains the language model: to describe one picture or several, in many forms, and to
answer questions about a picture. It can be repeated, to train for longer.
`AutoModelForImageTextToText.from_pretrained(DIR)` and `AutoProcessor.from_pretrained(DIR)` load the folder without
code of ours.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from lorabel.demo.counted_scenes import SIDE_PX, Kind, counted_scenes, kinds
from lorabel.demo.detector_training import Options, optimizer_for, read_options, schedule, take_steps
from lorabel.demo.exchanges import DESCRIBE, Exchange, of_several, random_exchange
from lorabel.demo.scenes import SCENE_COLOURS, SCENE_SHAPES, Scene
from lorabel.families.generation.tiny_models import (
    IDS,
    PICTURE_TOKENS,
    SPECIAL_TOKENS,
    chat_tokenizer,
    picture_processor,
)

PATCH_PX = 8
GRID = SIDE_PX // PATCH_PX
# Patches that become one token of the text model, along each side.
PATCHES_PER_TOKEN = 2
PLACEHOLDERS = (GRID // PATCHES_PER_TOKEN) ** 2
TRAINING_SEED = 1
"""Seed of the scenes. Evaluation uses other seeds."""
DRAWN_SIDES_PX = (64, 80, 96)
# Pictures of a step, questions about each, and rows about two pictures.
BATCH, QUESTIONS, PAIRS = 24, 1, 1
NOT_A_TARGET = -100


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that has the words of the exchanges as single tokens, and can read any text."""
    rng = random.Random(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[*SPECIAL_TOKENS, *PICTURE_TOKENS],
        min_frequency=50,
        show_progress=False,
    )
    scenes = itertools.islice(counted_scenes(0), 500)
    texts = [
        text
        for scene in scenes
        for _ in range(40)
        for exchange in (random_exchange(kinds(scene), rng),)
        for text in (exchange.instruction, exchange.text, exchange.answer, "system\nuser\nassistant\n")
    ]
    tokenizer.train_from_iterator(texts, trainer)
    return chat_tokenizer(tokenizer, (*SPECIAL_TOKENS, *PICTURE_TOKENS))


def build_model(tokenizer: PreTrainedTokenizerFast) -> SmolVLMForConditionalGeneration:
    """The model with random weights."""
    config = SmolVLMConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            **IDS,
        },
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": SIDE_PX,
            "patch_size": PATCH_PX,
        },
        scale_factor=PATCHES_PER_TOKEN,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=True,
        **IDS,
    )
    model = SmolVLMForConditionalGeneration(config)
    model.generation_config = GenerationConfig(**IDS)
    for layer in model.modules():
        # With transformers' 0.02 states of so few numbers hardly attend to anything at first.
        if isinstance(layer, nn.Linear) and layer is not model.lm_head:
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    nn.init.normal_(model.lm_head.weight, std=0.06)
    return model


@dataclass(frozen=True, slots=True)
class DrawnScenes:
    """Scenes as pixels, and what their patches show.

    Attributes:
        pixels: (n, side, side, 3) uint8.
        colours, shapes: (n, grid, grid) int64: of the thing in which a patch's middle lies; 0 for the ground.
        middles: (n, grid, grid) bool: whether the middle of a thing is in the patch.
    """

    kinds: list[tuple[Kind, ...]]
    pixels: NDArray[np.uint8]
    colours: NDArray[np.int64]
    shapes: NDArray[np.int64]
    middles: NDArray[np.bool_]


def draw_all(scenes: Sequence[Scene]) -> DrawnScenes:
    """Draw the scenes and resize them as the processor does."""
    count = len(scenes)
    pixels = np.zeros((count, SIDE_PX, SIDE_PX, 3), np.uint8)
    colours, shapes = (np.zeros((count, GRID, GRID), np.int64) for _ in range(2))
    middles = np.zeros((count, GRID, GRID), np.bool_)
    centres = (np.arange(GRID) + 0.5) / GRID
    for index, scene in enumerate(scenes):
        pixels[index] = np.asarray(scene.draw().resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS))
        for thing in scene.things:
            left, top, right, bottom = thing.corners
            x, y = (left + right) / 2, (top + bottom) / 2
            is_in_x = np.abs(centres - x) < max(0.35 * (right - left), 0.5 / GRID)
            is_in_y = np.abs(centres - y) < max(0.35 * (bottom - top), 0.5 / GRID)
            inside = is_in_y[:, None] & is_in_x[None]
            colours[index][inside] = 1 + tuple(SCENE_COLOURS).index(thing.colour)
            shapes[index][inside] = 1 + SCENE_SHAPES.index(thing.shape)
            middles[index][int(y * GRID), int(x * GRID)] = True
    return DrawnScenes([kinds(scene) for scene in scenes], pixels, colours, shapes, middles)


class Trainer:
    """One model, its optimizer and the random choices of one training."""

    def __init__(
        self, options: Options, model: SmolVLMForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        self.options, self.model, self.tokenizer = options, model, tokenizer
        self.random = random.Random(options.seed)
        self.rng = np.random.default_rng(options.seed)
        self.patch_head = nn.Linear(128, 2 + len(SCENE_COLOURS) + len(SCENE_SHAPES) + 1)
        self.vision = model.model.vision_model.requires_grad_(options.start is None)
        trained = nn.ModuleList([self.vision, self.patch_head]) if options.start is None else model
        self.optimizer = optimizer_for(trained, options.learning_rate)
        self.picture = (
            "<fake_token_around_image><global-img>" + "<image>" * PLACEHOLDERS + "<fake_token_around_image>"
        )

    def step(self, drawn: DrawnScenes, share_done: float) -> dict[str, float]:
        """Do one update. Returns the losses by name."""
        indices = self.rng.integers(len(drawn.kinds), size=BATCH)
        mirrored = self.rng.random(BATCH) < 0.5
        pixels = torch.from_numpy(drawn.pixels[indices]).permute(0, 3, 1, 2).float() / 255
        pixels = (pixels * torch.from_numpy(self.rng.uniform(0.92, 1.08, (BATCH, 1, 1, 1))).float()).clamp(0, 1)
        pixels[mirrored] = pixels[mirrored].flip(3)
        with torch.autocast("cpu", torch.bfloat16):
            states = self.vision(2 * pixels - 1).last_hidden_state
            if self.options.start is None:
                losses = self._patch_losses(self.patch_head(states).float(), drawn, indices, mirrored)
                total = sum(losses.values(), torch.zeros(()))
            else:
                rows = self._rows([drawn.kinds[index] for index in indices])
                total, of_captions = self._text_losses(self.model.model.connector(states), rows)
                losses = {"text": total, "caption": of_captions}
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * schedule(share_done)
        self.optimizer.zero_grad()
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _patch_losses(
        self, patches: Tensor, drawn: DrawnScenes, indices: NDArray[np.int64], mirrored: NDArray[np.bool_]
    ) -> dict[str, Tensor]:
        """How well each patch (batch, patches, classes) knows what thing it lies in."""

        def of_batch(values: NDArray[Any]) -> Tensor:
            chosen = values[indices]
            chosen[mirrored] = chosen[mirrored][:, :, ::-1]
            return torch.from_numpy(chosen).flatten()

        sizes = [1 + len(SCENE_COLOURS), 1 + len(SCENE_SHAPES), 1]
        colours, shapes, middles = torch.split(patches.flatten(0, 1), sizes, dim=1)
        return {
            "colour": functional.cross_entropy(colours, of_batch(drawn.colours)),
            "shape": functional.cross_entropy(shapes, of_batch(drawn.shapes)),
            "middle": functional.binary_cross_entropy_with_logits(middles[:, 0], of_batch(drawn.middles).float()),
        }

    def _rows(self, scenes: Sequence[Sequence[Kind]]) -> list[tuple[tuple[int, ...], Exchange]]:
        """Pictures, and what is asked about them."""
        rows: list[tuple[tuple[int, ...], Exchange]] = [
            ((index,), random_exchange(kinds, self.random))
            for index, kinds in enumerate(scenes)
            for _ in range(QUESTIONS)
        ]
        for _ in range(PAIRS):
            pair = tuple(self.random.sample(range(len(scenes)), 2))
            rows.append((pair, of_several([scenes[index] for index in pair], self.random)))
        return rows

    def _text_losses(
        self, features: Tensor, rows: Sequence[tuple[tuple[int, ...], Exchange]]
    ) -> tuple[Tensor, Tensor]:
        """The mean loss of a token of the answers, and of one of plain captions, which is only shown.

        Args:
            features: (pictures, tokens, dim).
        """
        prompts = [
            f"<|start|>system\n{exchange.instruction}<|end|>\n<|start|>user\n{self.picture * len(pictures)}"
            f"{exchange.text}<|end|>\n<|start|>assistant\n"
            for pictures, exchange in rows
        ]
        prompt_tokens = self.tokenizer(prompts, add_special_tokens=False)["input_ids"]
        answers = self.tokenizer([f"{exchange.answer}<|end|>" for _, exchange in rows], add_special_tokens=False)
        tokens = [prompt + answer for prompt, answer in zip(prompt_tokens, answers["input_ids"], strict=True)]
        longest = max(map(len, tokens))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in tokens])
        right = torch.full_like(ids, NOT_A_TARGET)
        for row, (prompt, all_tokens) in enumerate(zip(prompt_tokens, tokens, strict=True)):
            right[row, len(prompt) - 1 : len(all_tokens) - 1] = ids[row, len(prompt) : len(all_tokens)]
        embedded = self.model.get_input_embeddings()(ids)
        shown = torch.cat([features[list(pictures)].flatten(0, 1) for pictures, _ in rows])
        is_picture = (ids == self.model.image_token_id)[:, :, None]
        embedded = embedded.masked_scatter(is_picture, shown.to(embedded.dtype))
        # Padding is on the right, where no token of a row can look.
        states = self.model.model.text_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        is_target = right != NOT_A_TARGET
        logits = self.model.lm_head(states[is_target]).float()
        losses = functional.cross_entropy(logits, right[is_target], reduction="none")
        is_caption = torch.tensor([exchange.instruction in DESCRIBE for _, exchange in rows])
        of_captions = is_caption[:, None].expand_as(is_target)[is_target]
        return losses.mean(), losses.detach()[of_captions].sum() / of_captions.sum().clamp(min=1)


def main() -> None:
    """Train, and save the folder again and again."""
    options = read_options(__doc__, minutes=40, scenes=24_000, learning_rate=2e-3)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    if options.start is None:
        tokenizer = build_tokenizer()
        model = build_model(tokenizer)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(options.start)
        model = SmolVLMForConditionalGeneration.from_pretrained(options.start, dtype=torch.float32)
    picture_processor(tokenizer, SIDE_PX, PLACEHOLDERS).save_pretrained(options.out)
    model.config.save_pretrained(options.out)
    model.generation_config.save_pretrained(options.out)
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    scenes: list[Scene] = []
    for index, side_px in enumerate(DRAWN_SIDES_PX):
        drawn_scenes = counted_scenes(TRAINING_SEED + index, side_px=side_px)
        scenes += itertools.islice(drawn_scenes, options.scenes // len(DRAWN_SIDES_PX))
    # On a CPU, gradients of the fused attention in bfloat16 take more time than all the rest.
    model.train().set_attn_implementation("eager")
    drawn, trainer = draw_all(scenes), Trainer(options, model, tokenizer)
    take_steps(options, model, lambda _, share_done: trainer.step(drawn, share_done))


if __name__ == "__main__":
    main()
