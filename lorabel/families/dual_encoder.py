"""open_clip models: pictures and texts each become a vector, and the answer is the label with the nearest text.

A video is encoded as pictures of some of its frames, whose vectors are pooled. Segments are found by the vectors
of single frames, see `lorabel.families.encoders.segmenting`.

CLIP (https://arxiv.org/abs/2103.00020) and SigLIP (https://arxiv.org/abs/2303.15343). New and renamed labels
work at once, since a label is only a text.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import open_clip
import torch
from open_clip.transform import MaybeConvertMode
from PIL.Image import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import Resize

from lorabel.contracts import Modality
from lorabel.errors import SettingsError
from lorabel.explanation_contracts import Fit
from lorabel.families.encoders.attention import separate_attention
from lorabel.families.encoders.picture_reading import PictureReader
from lorabel.families.encoders.picture_resizing import resized
from lorabel.families.encoders.pooling import pool_features
from lorabel.families.encoders.segmenting import SegmentingEncoder, WindowedRecording
from lorabel.families.lora_layers import trained_modalities
from lorabel.media.cut_out import cut_out, on_square
from lorabel.media.decode_memory import decode_memory
from lorabel.media.image import decoded_image
from lorabel.media.plain_jpeg import Pixels
from lorabel.media.video import decode_beginning, decode_video
from lorabel.picture_part import Part
from lorabel.settings import Settings

# Prefix of the names of the image tower's layers.
IMAGE_TOWER = "visual."
# Most that `jitter` crops at each side, as a share of width or height.
MAX_CROP = 0.03
# JPEGs are decoded at a reduced scale, but at no less than this many times the model's resolution: with less, the
# features change (decision 53). A photo of a phone is then decoded at a half, which costs no more than a quarter.
DRAFT_SCALE = 4


@dataclass(frozen=True)
class DualEncoder(SegmentingEncoder):
    """Image and text towers of open_clip.

    `read` decodes pictures to (3, height, width) uint8 RGB and videos to (frames, 3, height, width) uint8 RGB,
    both at the model's resolution.

    Attributes:
        transform: open_clip's preprocessing of a PIL picture.
        tokenize: open_clip's tokenizer: texts -> (texts, seq) int64.
    """

    name: ClassVar[str] = "dual_encoder"
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.IMAGE, Modality.TEXT, Modality.VIDEO})
    default_source: ClassVar[str] = "ViT-B-16-SigLIP2-256/webli"
    window_modality: ClassVar[Modality] = Modality.IMAGE

    source: str
    module: nn.Module
    device: torch.device
    dtype: torch.dtype
    transform: Any
    tokenize: Any
    settings: Settings

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        """Load `hf-hub:owner/name`, `name/pretrained` of open_clip, or `local-dir:folder`; see `Family.load`."""
        name, _, pretrained = (source, "", "") if ":" in source else source.partition("/")
        try:
            # `create_model_and_transforms` only warns if there are no weights, and the model is then random.
            module, transform = open_clip.create_model_from_pretrained(name, pretrained or None)
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
    def hub_id(cls, source: str) -> str:
        """Look up the repository of open_clip's `name/pretrained`; see `Family.hub_id`."""
        if source.startswith("hf-hub:"):
            return super().hub_id(source)
        name, _, pretrained = source.partition("/")
        repository = open_clip.get_pretrained_cfg(name, pretrained).get("hf_hub", "")
        if not repository:
            raise SettingsError(
                f"open_clip knows no repository on the model hub for {source!r}; expected hf-hub:owner/name, or "
                "name/pretrained of open_clip.list_pretrained()"
            )
        return "/".join(repository.split("/")[:2])  # a name of a file may follow

    @classmethod
    def tiny(cls, folder: Path) -> str:
        """Write a tiny CLIP with pictures of 32 x 32 pixels; see `Family.tiny`."""
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
        """Decode a picture or a video to uint8 pixels at the model's resolution; see `ContentEncoder.read`."""
        settings, reader = self.settings, self._picture_reader
        memory = decode_memory(settings.media_decode_mb)
        if modality == Modality.VIDEO:
            limits = (settings.media_max_megapixels, reader.enough_px, memory)
            frames = decode_video(file, settings.video_frames, settings.video_clip_s, *limits)
            return torch.stack([self._pixels(frame) for frame in frames])
        return reader.read(file, memory)

    def read_parts(self, file: bytes, parts: Sequence[Part]) -> Sequence[Tensor]:
        """Decode a picture to its parts, each in the middle of a grey square; see `ContentEncoder.read_parts`."""
        settings = self.settings
        smallest = min(max(part.width, part.height) for part in parts)
        enough_px = math.ceil(DRAFT_SCALE * self._side_px / min(1.0, smallest))
        limits = (settings.media_max_megapixels, enough_px, decode_memory(settings.media_decode_mb))
        with decoded_image(file, *limits) as image:
            return [self._pixels(on_square(cut_out(image, part, self._grey), self._grey)) for part in parts]

    def read_windows(self, file: bytes, step_s: float) -> WindowedRecording:
        """Decode the frame that is shown at each step; see `SegmentingEncoder.read_windows`."""
        settings = self.settings
        beginning = decode_beginning(
            file,
            step_s,
            settings.segments_max_s,
            self._pixels,
            settings.media_max_megapixels,
            DRAFT_SCALE * self._side_px,
            decode_memory(settings.media_decode_mb),
        )
        return WindowedRecording(beginning.frames, beginning.read_s, beginning.length_s)

    def encode(self, modality: Modality, data: Sequence[Any]) -> Tensor:
        """Compute the features of pictures, videos or texts; see `ContentEncoder.encode`."""
        if modality == Modality.TEXT:
            features = self.module.encode_text(self.tokenize(list(data)).to(self.device))  # type: ignore[operator]
        else:
            # Pixels that `jitter` has changed are normalised already.
            if any(pixels.is_floating_point() for pixels in data):
                data = [self._normalise(pixels) for pixels in data]
            pictures = torch.cat([pixels if modality == Modality.VIDEO else pixels[None] for pixels in data])
            batch = self._normalise(pictures.to(self.device)).to(self.dtype)
            features = self.module.encode_image(batch)  # type: ignore[operator]
        features = functional.normalize(features.float(), dim=-1)
        if modality == Modality.VIDEO:
            return pool_features(features, [len(frames) for frames in data], self.settings.video_pooling)
        return features

    def jitter(self, modality: Modality, data: Any, generator: torch.Generator) -> Any:
        """Crop up to 3% at each side and change the contrast by up to 5%, equally for all frames of a video.

        Pictures are never mirrored, since the direction of an arrow may be the label.

        Returns:
            (..., 3, height, width) float32, normalised, on the CPU; a text unchanged.
        """
        return data if modality == Modality.TEXT else _jitter(self._normalise(data), generator)

    def tower(self, modality: Modality) -> frozenset[str]:
        """Return the names of the text tower's layers, or the image tower's for pictures and videos."""
        return self._text_layers if modality == Modality.TEXT else self._image_layers

    def row_count(self, modality: Modality, data: Any) -> int:
        """Return the number of frames of a video; 1 for everything else."""
        return len(data) if modality == Modality.VIDEO else 1

    @cached_property
    def fit(self) -> Fit:
        """As the first steps of open_clip's transform do it."""
        resize = next((step for step in self.transform.transforms if isinstance(step, Resize)), None)
        if resize is None:
            return Fit.PADDED
        return Fit.MIDDLE if isinstance(resize.size, int) else Fit.STRETCHED

    @property
    def trained_modalities(self) -> frozenset[Modality]:
        """All if LORA_TOWERS is `both`; else text only."""
        return trained_modalities(self.settings.lora_towers, self.modalities, by_default={Modality.TEXT})

    @cached_property
    def scale(self) -> float:
        """The learned scale of the model: the exponential of its `logit_scale`."""
        return float(self.module.logit_scale.detach().float().exp())  # type: ignore[operator]

    @cached_property
    def bias(self) -> float | None:
        """The learned `logit_bias` of SigLIP; None for CLIP."""
        bias = self.module.logit_bias
        return float(bias.detach().float()) if isinstance(bias, Tensor) else None

    def _pixels(self, image: Pixels | Image) -> Tensor:
        """(3, height, width) uint8 at the model's resolution."""
        return resized(image, self._picture_reader.steps)

    @cached_property
    def _picture_reader(self) -> PictureReader:
        """Reads a picture as the first steps of open_clip's transform do.

        MaybeConvertMode is left out: it has nothing to do, since pictures are RGB.
        """
        steps = [step for step in self.transform.transforms[:-2] if not isinstance(step, MaybeConvertMode)]
        return PictureReader(steps, self.settings.media_max_megapixels, DRAFT_SCALE * self._side_px)

    def _normalise(self, pixels: Tensor) -> Tensor:
        """Scale and normalise (..., 3, height, width) uint8 as the end of open_clip's transform does, to float32.

        For prediction this happens on the device, since uint8 pixels have a quarter of the bytes to transfer.
        Pixels that are float already are returned unchanged.
        """
        if pixels.is_floating_point():
            return pixels
        normal = self.transform.transforms[-1]
        mean, std = torch.tensor([normal.mean, normal.std], device=pixels.device)[:, :, None, None]
        # (pixels / 255 - mean) / std, with two passes over the numbers in place of five.
        return torch.mul(pixels, 1 / (255 * std)).sub_(mean / std)

    @cached_property
    def _grey(self) -> tuple[int, int, int]:
        """The colour that `_normalise` turns into zeros."""
        red, green, blue = (round(255 * float(mean)) for mean in self.transform.transforms[-1].mean)
        return red, green, blue

    @cached_property
    def _image_layers(self) -> frozenset[str]:
        return frozenset(name for name in self.tower_layers() if name.startswith(IMAGE_TOWER))

    @cached_property
    def _text_layers(self) -> frozenset[str]:
        return frozenset(self.tower_layers()) - self._image_layers

    @cached_property
    def _side_px(self) -> int:
        """The longer side of the model's input, in pixels."""
        size = self.module.visual.image_size  # type: ignore[union-attr]
        return int(max(size) if isinstance(size, tuple) else size)  # type: ignore[arg-type]


def _jitter(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Crop and change the contrast of (..., 3, height, width) float32; the size stays."""
    *_, height, width = pixels.shape
    shares: list[float] = torch.rand(5, generator=generator).tolist()
    left, right = (round(share * MAX_CROP * width) for share in shares[:2])
    top, bottom = (round(share * MAX_CROP * height) for share in shares[2:4])
    cropped = pixels[..., top : height - bottom, left : width - right]
    cropped = cropped.reshape(-1, *cropped.shape[-3:])
    resized: Tensor = functional.interpolate(cropped, (height, width), mode="bilinear", antialias=True)
    return resized.view_as(pixels) * (0.95 + 0.1 * shares[4])
