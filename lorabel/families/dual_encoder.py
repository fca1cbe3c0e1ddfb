"""open_clip models: a picture and a text each become a vector, and the nearest label text is the answer.

A video is pictures of some of its frames.

CLIP (https://arxiv.org/abs/2103.00020) and SigLIP (https://arxiv.org/abs/2303.15343). New and renamed labels
work at once, since a label is only a text.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import open_clip
import torch
from PIL.Image import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import Compose
from torchvision.transforms.functional import normalize, pil_to_tensor

from lorabel.contracts import Modality
from lorabel.errors import SettingsError
from lorabel.families.encoders.attention import separate_attention
from lorabel.families.encoders.encoder import Encoder
from lorabel.families.encoders.pooling import pool_features
from lorabel.media.image import decode_image
from lorabel.media.video import decode_video
from lorabel.settings import Settings

IMAGE_TOWER = "visual."
LARGEST_CUT = 0.03
# JPEGs are decoded at no less than this many times the model's resolution. What it costs in likeness is tested.
DRAFT = 2


@dataclass(frozen=True)
class DualEncoder(Encoder):
    """Pictures are read as (3, height, width) uint8, videos as (frames, 3, height, width)."""

    name: ClassVar[str] = "dual_encoder"
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.IMAGE, Modality.TEXT, Modality.VIDEO})
    default_source: ClassVar[str] = "ViT-B-16-SigLIP2-256/webli"

    source: str
    module: nn.Module
    device: torch.device
    dtype: torch.dtype
    transform: Any
    tokenize: Any
    settings: Settings

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
        return cls(source, module, device, dtype, transform, tokenize, settings)

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

    def read(self, modality: Modality, file: bytes) -> Tensor:
        most = self.settings.media_max_megapixels
        if modality == Modality.VIDEO:
            frames = decode_video(file, self.settings.video_frames, self.settings.video_clip_s, most)
            return torch.stack([self._pixels(frame) for frame in frames])
        return self._pixels(decode_image(file, most, DRAFT * self._side_px))

    def encode(self, modality: Modality, data: Sequence[Any]) -> Tensor:
        if modality == Modality.TEXT:
            features = self.module.encode_text(self.tokenize(list(data)).to(self.device))  # type: ignore[operator]
        else:
            if any(one.is_floating_point() for one in data):
                data = [self._normalise(one) for one in data]
            pictures = torch.cat([one if modality == Modality.VIDEO else one[None] for one in data])
            batch = self._normalise(pictures.to(self.device)).to(self.dtype)
            features = self.module.encode_image(batch)  # type: ignore[operator]
        features = functional.normalize(features.float(), dim=-1)
        if modality == Modality.VIDEO:
            return pool_features(features, [len(frames) for frames in data], self.settings.video_pooling)
        return features

    def jitter(self, modality: Modality, data: Any, generator: torch.Generator) -> Any:
        """Cut off up to 3% at each side and change the contrast a little, of a video's frames all alike. Never
        mirrored: an arrow's direction may be the label."""
        return data if modality == Modality.TEXT else _jitter(self._normalise(data), generator)

    def tower(self, modality: Modality) -> frozenset[str]:
        return self._text_layers if modality == Modality.TEXT else self._image_layers

    def row_count(self, modality: Modality, data: Any) -> int:
        return len(data) if modality == Modality.VIDEO else 1

    @property
    def trained_modalities(self) -> frozenset[Modality]:
        return self.modalities if self.settings.lora_towers == "both" else frozenset({Modality.TEXT})

    @cached_property
    def scale(self) -> float:
        return float(self.module.logit_scale.detach().float().exp())  # type: ignore[operator]

    @cached_property
    def bias(self) -> float | None:
        bias = self.module.logit_bias
        return float(bias.detach().float()) if isinstance(bias, Tensor) else None

    def _pixels(self, image: Image) -> Tensor:
        """(3, height, width) uint8 at the model's resolution."""
        pixels: Tensor = pil_to_tensor(Compose(self.transform.transforms[:-2])(image))
        return pixels

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
        return frozenset(name for name in self.tower_layers() if name.startswith(IMAGE_TOWER))

    @cached_property
    def _text_layers(self) -> frozenset[str]:
        return frozenset(self.tower_layers()) - self._image_layers

    @cached_property
    def _side_px(self) -> int:
        size = self.module.visual.image_size  # type: ignore[union-attr]
        return int(max(size) if isinstance(size, tuple) else size)  # type: ignore[arg-type]


def _jitter(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Of (..., 3, height, width) float."""
    *_, height, width = pixels.shape
    shares: list[float] = torch.rand(5, generator=generator).tolist()
    left, right = (round(share * LARGEST_CUT * width) for share in shares[:2])
    top, bottom = (round(share * LARGEST_CUT * height) for share in shares[2:4])
    cut = pixels[..., top : height - bottom, left : width - right]
    cut = cut.reshape(-1, *cut.shape[-3:])
    resized: Tensor = functional.interpolate(cut, (height, width), mode="bilinear", antialias=True)
    return resized.view_as(pixels) * (0.95 + 0.1 * shares[4])
