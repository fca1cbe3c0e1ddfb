"""open_clip models: a picture and a text each become a vector, and the nearest label text is the answer.

CLIP (https://arxiv.org/abs/2103.00020) and SigLIP (https://arxiv.org/abs/2303.15343). New and renamed labels
work at once, since a label is only a text.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from lorabel.attention import separate_attention
from lorabel.contracts import Contract, ImageLabels, LabelScores, LabelTarget, RowAdapters
from lorabel.errors import SettingsError
from lorabel.families import Family, Fetch, Memo
from lorabel.media import decode_image
from lorabel.settings import Settings

TEXT_BATCH = 256
# With several labels allowed, a label is chosen if the picture is nearer to it than to this text.
NEUTRAL_TEXT = "something else"


@dataclass(frozen=True)
class Example:
    """`pixels`: (3, height, width) float32, normalised as the model wants it."""

    pixels: Tensor
    texts: tuple[str, ...]
    is_multiple: bool


@dataclass(frozen=True)
class DualEncoder(Family):
    name: ClassVar[str] = "dual_encoder"
    input_type: ClassVar[type[Contract]] = ImageLabels
    output_type: ClassVar[type[Contract]] = LabelScores
    default_source: ClassVar[str] = "ViT-B-16-SigLIP2-256/webli"

    source: str
    module: nn.Module
    device: torch.device
    dtype: torch.dtype
    transform: Any
    tokenize: Any
    max_megapixels: int

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        name, _, pretrained = (source, "", "") if ":" in source else source.partition("/")
        try:
            module, _, transform = open_clip.create_model_and_transforms(name, pretrained=pretrained or None)
            tokenize = open_clip.get_tokenizer(name)
        except Exception as error:
            raise SettingsError(
                f"MODEL_DUAL_ENCODER={source!r} cannot be loaded: {error}; expected hf-hub:owner/name, "
                "name/pretrained of open_clip, or local-dir:folder with open_clip_config.json"
            ) from error
        separate_attention(module).requires_grad_(False).eval()
        module.to(device=device, dtype=dtype)
        return cls(source, module, device, dtype, transform, tokenize, settings.media_max_megapixels)

    @classmethod
    def tiny(cls, folder: Path) -> str:
        config = {
            "model_cfg": {
                "embed_dim": 32,
                "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
                "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
            },
            "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        source = f"local-dir:{folder}"
        module = open_clip.create_model(source, load_weights=False)
        save_file(module.state_dict(), folder / "open_clip_model.safetensors")
        return source

    def prepare(self, question: ImageLabels, fetch: Fetch) -> Example:
        image = decode_image(fetch(question.image), self.max_megapixels)
        return Example(self.transform(image), question.texts, question.is_multiple)

    def augment(self, examples: Sequence[Example], generator: torch.Generator) -> Sequence[Example]:
        """Cut off up to a tenth of each side and change the contrast a little. Never mirrored: an arrow's
        direction may be the label."""
        return [
            Example(_jitter(example.pixels, generator), example.texts, example.is_multiple) for example in examples
        ]

    @torch.inference_mode()
    def predict(
        self, examples: Sequence[Example], adapters: Sequence[str | None], rows: RowAdapters, memo: Memo
    ) -> Sequence[LabelScores]:
        with rows(adapters):
            images = self._encode_images(examples)
        keys = [(adapter, example.texts) for adapter, example in zip(adapters, examples, strict=True)]
        for adapter, texts in dict.fromkeys(key for key in keys if key not in memo):
            with rows([adapter] * (len(texts) + 1)):
                memo[adapter, texts] = self._encode_texts(texts)
        scores = []
        for image, example, key in zip(images, examples, keys, strict=True):
            logits = self._logits(image[None], memo[key], example.is_multiple)[0]
            shares = logits.sigmoid() if example.is_multiple else logits.softmax(-1)
            scores.append(LabelScores(probabilities=tuple(shares.tolist())))
        return scores

    def loss(self, examples: Sequence[Example], targets: Sequence[LabelTarget]) -> Tensor:
        """Cross-entropy over the label texts, or a sigmoid loss over each of them if several are allowed.

        The examples of one batch have the same question.
        """
        first = examples[0]
        logits = self._logits(self._encode_images(examples), self._encode_texts(first.texts), first.is_multiple)
        if not first.is_multiple:
            right = torch.tensor([target.indices[0] for target in targets], device=self.device)
            return functional.cross_entropy(logits, right)
        truth = torch.zeros_like(logits)
        for row, target in zip(truth, targets, strict=True):
            row[list(target.indices)] = 1.0
        return functional.binary_cross_entropy_with_logits(logits, truth)

    def _encode_images(self, examples: Sequence[Example]) -> Tensor:
        """(batch, dim) float32, of length 1."""
        pixels = torch.stack([example.pixels for example in examples]).to(self.device, self.dtype)
        return functional.normalize(self.module.encode_image(pixels).float(), dim=-1)  # type: ignore[operator]

    def _encode_texts(self, texts: tuple[str, ...]) -> Tensor:
        """(labels + 1, dim) float32, of length 1; the last one is the neutral text."""
        tokens = self.tokenize([*texts, NEUTRAL_TEXT]).to(self.device)
        features = [self.module.encode_text(part).float() for part in tokens.split(TEXT_BATCH)]  # type: ignore[operator]
        return functional.normalize(torch.cat(features), dim=-1)

    def _logits(self, images: Tensor, texts: Tensor, is_multiple: bool) -> Tensor:
        """(batch, labels) float32. For several labels: 0 is the border between chosen and not.

        SigLIP learned that border as a bias; CLIP did not, so there it is the nearness of the neutral text.
        """
        nearness: Tensor = self.module.logit_scale.float().exp() * images @ texts.T  # type: ignore[operator]
        labels, neutral = nearness[:, :-1], nearness[:, -1:]
        if not is_multiple:
            return labels
        bias = self.module.logit_bias
        return labels + bias.float() if isinstance(bias, Tensor) else labels - neutral


def _jitter(pixels: Tensor, generator: torch.Generator) -> Tensor:
    _, height, width = pixels.shape
    left, top, right, bottom, contrast = torch.rand(5, generator=generator).tolist()
    x, y = int(left * 0.1 * width), int(top * 0.1 * height)
    cut = pixels[:, y : height - int(bottom * 0.1 * height), x : width - int(right * 0.1 * width)]
    resized: Tensor = functional.interpolate(cut[None], (height, width), mode="bilinear", antialias=True)[0]
    return resized * (0.9 + 0.2 * contrast)
