"""open_clip models: a picture and a text each become a vector, and the nearest label text is the answer.

CLIP (https://arxiv.org/abs/2103.00020) and SigLIP (https://arxiv.org/abs/2303.15343). New and renamed labels
work at once, since a label is only a text.
"""

import json
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import Compose
from torchvision.transforms.functional import normalize, pil_to_tensor

from lorabel.attention import separate_attention
from lorabel.contracts import Contract, ImageLabels, LabelScores, LabelTarget, RowAdapters
from lorabel.errors import SettingsError
from lorabel.families import DigestOf, Family, Fetch
from lorabel.media import decode_image, digest
from lorabel.memo import FEATURES, PIXELS, TEXTS, Memo
from lorabel.settings import Settings

TEXT_BATCH = 256
# With several labels allowed, a label is chosen if the picture is nearer to it than to this text.
NEUTRAL_TEXT = "something else"


IMAGE_TOWER = "visual."
# Of a picture whose features are precomputed: the picture itself, then augmented ones.
VIEWS = 4
LARGEST_CUT = 0.03
FEATURE_BATCH = 64
# The model's own scale (28 for the demo model, 100 and more for CLIP) saturates the loss as soon as a training
# example is right, and little is learned for others. docs/decisions/0009 has the figures.
TRAINING_SCALE = 10.0


# JPEGs are decoded at no less than this many times the model's resolution. What it costs in likeness is tested.
DRAFT = 2


@dataclass(frozen=True)
class Example:
    """`pixels`: (3, height, width), uint8 or, augmented, float32 and normalised as the model wants it; or,
    computed already, `features`: (views, dim) float32, of length 1, the first of the picture itself.
    `digest` names the picture's content where it is known."""

    texts: tuple[str, ...]
    is_multiple: bool
    pixels: Tensor | None = None
    features: Tensor | None = None
    digest: str | None = None


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
    towers: str

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
        return cls(
            source, module, device, dtype, transform, tokenize, settings.media_max_megapixels, settings.lora_towers
        )

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
        data = fetch(question.image)
        image = decode_image(data, self.max_megapixels, DRAFT * self._side_px)
        pixels = pil_to_tensor(Compose(self.transform.transforms[:-2])(image))
        return Example(question.texts, question.is_multiple, pixels, digest=digest(data))

    def recall(
        self, question: ImageLabels, digest_of: DigestOf, adapter: str | None, adapters: RowAdapters, memo: Memo
    ) -> Example | None:
        name = digest_of(question.image)
        if name is None:
            return None
        example = Example(question.texts, question.is_multiple, digest=name)
        features = memo.get(FEATURES, (name, adapters.changing(adapter, self._image_layers)))
        if features is not None:
            return replace(example, features=features[None])
        pixels = memo.get(PIXELS, name)
        return None if pixels is None else replace(example, pixels=pixels)

    @torch.inference_mode()
    def answer(
        self, example: Example, adapter: str | None, adapters: RowAdapters, memo: Memo
    ) -> LabelScores | None:
        texts = memo.get(TEXTS, (adapters.changing(adapter, self._text_layers), example.texts))
        return None if example.features is None or texts is None else self._scores(example, texts)

    def trained_layers(self) -> list[str]:
        if self.towers == "both":
            return self.lora_layers()
        return [name for name in self.lora_layers() if not name.startswith(IMAGE_TOWER)]

    @torch.inference_mode()
    def precompute(
        self, examples: Sequence[Example], trained: Collection[str], generator: torch.Generator
    ) -> Sequence[Example]:
        """Where only the text tower learns, pictures become features, so that a step costs next to nothing."""
        if any(name.startswith(IMAGE_TOWER) for name in trained):
            return examples
        views = [[example, *self.augment([example] * (VIEWS - 1), generator)] for example in examples]
        flat = [example for of_one in views for example in of_one]
        features = torch.cat(
            [
                self._encode_images(flat[start : start + FEATURE_BATCH])
                for start in range(0, len(flat), FEATURE_BATCH)
            ]
        )
        return [
            replace(example, pixels=None, features=own)
            for example, own in zip(examples, features.view(len(examples), VIEWS, -1), strict=True)
        ]

    def augment(self, examples: Sequence[Example], generator: torch.Generator) -> Sequence[Example]:
        """Cut off up to 3% at each side and change the contrast a little, or take one of the views that have
        been precomputed so. Never mirrored: an arrow's direction may be the label."""
        return [self._augmented(example, generator) for example in examples]

    @torch.inference_mode()
    def predict(
        self, examples: Sequence[Example], adapters: Sequence[str | None], bank: RowAdapters, memo: Memo
    ) -> Sequence[LabelScores]:
        seen = self._see(examples, adapters, bank, memo)
        keys = [
            (bank.changing(adapter, self._text_layers), example.texts)
            for adapter, example in zip(adapters, seen, strict=True)
        ]
        texts = {key: self._read(*key, bank, memo) for key in dict.fromkeys(keys)}
        return [self._scores(example, texts[key]) for example, key in zip(seen, keys, strict=True)]

    def _see(
        self, examples: Sequence[Example], adapters: Sequence[str | None], bank: RowAdapters, memo: Memo
    ) -> list[Example]:
        """The same with features. Those that have none go through the image tower, each picture once."""
        keys = [
            (example.digest or i, bank.changing(adapter, self._image_layers))
            for i, (example, adapter) in enumerate(zip(examples, adapters, strict=True))
        ]
        new = {key: i for i, key in enumerate(keys) if examples[i].features is None}
        if not new:
            return list(examples)
        pictures = [examples[i] for i in new.values()]
        with bank.rows([adapters[i] for i in new.values()]):
            features = self._encode_images(pictures).cpu()
        # Copies: a row alone would keep its whole batch in memory.
        found = {key: own.clone() for key, own in zip(new, features, strict=True)}
        for picture, (key, own) in zip(pictures, found.items(), strict=True):
            if picture.digest is not None and picture.pixels is not None:
                memo.put(FEATURES, key, own)
                memo.put(PIXELS, picture.digest, picture.pixels)
        return [
            replace(example, features=found[key][None]) if example.features is None else example
            for example, key in zip(examples, keys, strict=True)
        ]

    def _read(self, adapter: str | None, texts: tuple[str, ...], bank: RowAdapters, memo: Memo) -> Tensor:
        known = memo.get(TEXTS, (adapter, texts))
        if known is None:
            known = self._encode_texts(texts, lambda count: bank.rows([adapter] * count)).cpu()
            memo.put(TEXTS, (adapter, texts), known)
        return known

    def _scores(self, example: Example, texts: Tensor) -> LabelScores:
        assert example.features is not None
        logits = self._logits(example.features[:1].to(texts.device), texts, example.is_multiple)[0]
        shares = logits.sigmoid() if example.is_multiple else logits.softmax(-1)
        return LabelScores(probabilities=tuple(shares.tolist()))

    def loss(self, examples: Sequence[Example], targets: Sequence[LabelTarget]) -> Tensor:
        """Cross-entropy over the label texts, or a sigmoid loss over each of them if several are allowed.

        The examples of one batch have the same question.
        """
        first = examples[0]
        logits = self._logits(self._encode_images(examples), self._encode_texts(first.texts), first.is_multiple)
        logits = logits * min(1.0, TRAINING_SCALE / self._scale)
        if not first.is_multiple:
            right = torch.tensor([target.indices[0] for target in targets], device=self.device)
            return functional.cross_entropy(logits, right)
        truth = torch.zeros_like(logits)
        for row, target in zip(truth, targets, strict=True):
            row[list(target.indices)] = 1.0
        return functional.binary_cross_entropy_with_logits(logits, truth)

    def _augmented(self, example: Example, generator: torch.Generator) -> Example:
        if example.features is not None:
            view = int(torch.randint(len(example.features), (), generator=generator))
            return replace(example, features=example.features[view, None])
        if example.pixels is None:
            return example
        return replace(example, pixels=_jitter(self._normalise(example.pixels), generator))

    def _encode_images(self, examples: Sequence[Example]) -> Tensor:
        """(batch, dim) float32, of length 1. The examples are all precomputed or none is."""
        known = [example.features[0] for example in examples if example.features is not None]
        if known:
            return torch.stack(known)
        pixels = [example.pixels for example in examples if example.pixels is not None]
        if any(one.is_floating_point() for one in pixels):
            pixels = [self._normalise(one) for one in pixels]
        batch = self._normalise(torch.stack(pixels).to(self.device)).to(self.dtype)
        return functional.normalize(self.module.encode_image(batch).float(), dim=-1)  # type: ignore[operator]

    def _normalise(self, pixels: Tensor) -> Tensor:
        """As open_clip's own transform ends: uint8 (..., 3, height, width) to what the model takes. On the device,
        to which a quarter of the bytes go then."""
        if pixels.is_floating_point():
            return pixels
        normal = self.transform.transforms[-1]
        normalised: Tensor = normalize(pixels.float().div_(255), normal.mean, normal.std)
        return normalised

    @cached_property
    def _image_layers(self) -> frozenset[str]:
        return frozenset(name for name in self.lora_layers() if name.startswith(IMAGE_TOWER))

    @cached_property
    def _text_layers(self) -> frozenset[str]:
        return frozenset(self.lora_layers()) - self._image_layers

    @cached_property
    def _side_px(self) -> int:
        size = self.module.visual.image_size  # type: ignore[union-attr]
        return int(max(size) if isinstance(size, tuple) else size)  # type: ignore[arg-type]

    def _encode_texts(
        self, texts: tuple[str, ...], around: Callable[[int], AbstractContextManager[Any]] = nullcontext
    ) -> Tensor:
        """(labels + 1, dim) float32, of length 1; the last one is the neutral text.

        Args:
            around: given the number of texts in a batch, the context that it is computed in.
        """
        tokens = self.tokenize([*texts, NEUTRAL_TEXT]).to(self.device)
        features = []
        for part in tokens.split(TEXT_BATCH):
            with around(len(part)):
                features.append(self.module.encode_text(part).float())  # type: ignore[operator]
        return functional.normalize(torch.cat(features), dim=-1)

    def _logits(self, images: Tensor, texts: Tensor, is_multiple: bool) -> Tensor:
        """(batch, labels) float32. For several labels: 0 is the border between chosen and not.

        SigLIP learned that border as a bias; CLIP did not, so there it is the nearness of the neutral text.
        """
        nearness = self._scale * images @ texts.T
        labels, neutral = nearness[:, :-1], nearness[:, -1:]
        if not is_multiple:
            return labels
        return labels - neutral if self._bias is None else labels + self._bias

    @cached_property
    def _scale(self) -> float:
        return float(self.module.logit_scale.detach().float().exp())  # type: ignore[operator]

    @cached_property
    def _bias(self) -> float | None:
        bias = self.module.logit_bias
        return float(bias.detach().float()) if isinstance(bias, Tensor) else None


def _jitter(pixels: Tensor, generator: torch.Generator) -> Tensor:
    _, height, width = pixels.shape
    shares: list[float] = torch.rand(5, generator=generator).tolist()
    left, right = (round(share * LARGEST_CUT * width) for share in shares[:2])
    top, bottom = (round(share * LARGEST_CUT * height) for share in shares[2:4])
    cut = pixels[:, top : height - bottom, left : width - right]
    resized: Tensor = functional.interpolate(cut[None], (height, width), mode="bilinear", antialias=True)[0]
    return resized * (0.95 + 0.1 * shares[4])
