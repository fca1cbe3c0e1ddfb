"""Trains the language model of the demo's captioner, a tiny SmolVLM, on scenes that are drawn once.

    python -m lorabel.demo.train_captioner_vision --out EYES --minutes 7
    python -m lorabel.demo.train_captioner --start EYES --out DIR --minutes 25 --seed 1

The first command trains the vision part, which the second leaves as it is. The language model learns to describe
one picture or several, in many forms, and to answer questions about a picture. The second command can be repeated,
to train for longer. `AutoModelForImageTextToText.from_pretrained` and `AutoProcessor.from_pretrained` load
the folder DIR without code of ours.
"""

import random
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, SmolVLMForConditionalGeneration

from lorabel.demo.captioner_model import GRID, PLACEHOLDERS
from lorabel.demo.counted_scenes import MOST_OF_A_KIND, Kind
from lorabel.demo.detector_training import Options, optimizer_for, read_options, schedule, take_steps
from lorabel.demo.drawn_scenes import DrawnScenes, as_pixels, draw_scenes, vary
from lorabel.demo.exchanges import DESCRIBE, Exchange, noun, of_several, random_exchange
from lorabel.demo.scenes import SCENE_COLOURS, SCENE_SHAPES
from lorabel.demo.train_captioner_vision import NOT_A_TARGET, many_scenes, write_all_but_weights

TRAINING_SEED = 11
"""Seed of the scenes. Evaluation uses other seeds."""
# Pictures of a step, what is asked about each, and rows about two pictures.
BATCH, EXCHANGES, PAIRS = 24, 2, 1
CHUNKS = 2
"""Parts of a step, by length, so that short rows are not padded to the longest."""
OTHER_WORD_SHARE = 0.15
"""Share of the colours and shapes of an answer that the model reads back as another colour or shape.

So it does not learn that a pair of words which it has never seen cannot be: the picture decides the second word.
"""
Row = tuple[tuple[int, ...], Exchange]


class Trainer:
    """One model, its optimizer and the random choices of one training."""

    def __init__(
        self, options: Options, model: SmolVLMForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        self.options, self.model, self.tokenizer = options, model, tokenizer
        self.random = random.Random(options.seed)
        self.rng = np.random.default_rng(options.seed)
        self.vision = model.model.vision_model.requires_grad_(False)
        self.optimizer = optimizer_for(model, options.learning_rate)
        self.other_words = other_words(tokenizer)
        self.picture = (
            "<fake_token_around_image><global-img>" + "<image>" * PLACEHOLDERS + "<fake_token_around_image>"
        )

    def step(self, drawn: DrawnScenes, share_done: float) -> dict[str, float]:
        """Do one update. Returns the mean loss of a token of the answers, and of one of plain captions."""
        indices = self.rng.integers(len(drawn.kinds), size=BATCH)
        pixels, _ = vary(as_pixels(drawn.pixels[indices]), self.rng)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                states = self.vision(2 * pixels - 1).last_hidden_state
            features = self.model.model.connector(states)
            chunks = self._chunks([drawn.kinds[index] for index in indices])
            losses, is_caption = (
                torch.cat(parts) for parts in zip(*(self._losses(features, rows) for rows in chunks), strict=True)
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * schedule(share_done)
        self.optimizer.zero_grad()
        torch.autograd.backward(losses.mean())
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return {"text": float(losses.detach().mean()), "caption": float(losses.detach()[is_caption].mean())}

    def _chunks(self, scenes: Sequence[Sequence[Kind]]) -> list[list[Row]]:
        """Pictures, and what is asked about them, by the length of question and answer."""
        rows: list[Row] = [
            ((index,), random_exchange(kinds, self.random))
            for index, kinds in enumerate(scenes)
            for _ in range(EXCHANGES)
        ]
        for _ in range(PAIRS):
            pair = tuple(self.random.sample(range(len(scenes)), 2))
            rows.append((pair, of_several([scenes[index] for index in pair], self.random)))
        rows.sort(key=lambda row: (len(row[0]), len("".join((row[1].instruction, row[1].text, row[1].answer)))))
        size = -(-len(rows) // CHUNKS)
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _losses(self, features: Tensor, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """The loss of each token of the answers, and whether it is one of a plain caption.

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
            for place in range(len(prompt), len(all_tokens)):
                others = self.other_words.get(all_tokens[place])
                if others and self.random.random() < OTHER_WORD_SHARE:
                    ids[row, place] = self.random.choice(others)
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
        return losses, is_caption[:, None].expand_as(is_target)[is_target]


def other_words(tokenizer: PreTrainedTokenizerFast) -> Mapping[int, Sequence[int]]:
    """The tokens of colours and shapes, and for each the others of its sort in the same form."""
    plurals = [noun(Kind(MOST_OF_A_KIND, "", shape)) for shape in SCENE_SHAPES]
    others: dict[int, list[int]] = {}
    for words in (tuple(SCENE_COLOURS), SCENE_SHAPES, plurals):
        for space in ("", " "):
            tokens = [tokenizer(space + word, add_special_tokens=False)["input_ids"] for word in words]
            known = [ids[0] for ids in tokens if len(ids) == 1]
            others |= {token: [other for other in known if other != token] for token in known}
    return others


def main() -> None:
    """Train, and save the folder again and again."""
    options = read_options(__doc__, minutes=25, scenes=24_000, learning_rate=2e-3)
    if options.start is None:
        sys.exit("--start is missing: the folder that lorabel.demo.train_captioner_vision wrote")
    torch.manual_seed(options.seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(options.start)
    model = SmolVLMForConditionalGeneration.from_pretrained(options.start, dtype=torch.float32)
    write_all_but_weights(model, tokenizer, options)
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    drawn = draw_scenes(many_scenes(TRAINING_SEED, (72, 96, 128), options.scenes), GRID)
    # On a CPU, gradients of the fused attention in bfloat16 take more time than all the rest.
    model.train().set_attn_implementation("eager")
    trainer = Trainer(options, model, tokenizer)
    take_steps(options, model, lambda _, share_done: trainer.step(drawn, share_done))


if __name__ == "__main__":
    main()
