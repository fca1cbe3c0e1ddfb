"""SAM 2 of transformers: clicks and boxes on a picture become masks.

Segment Anything 2 (https://arxiv.org/abs/2408.00714). A large tower computes the embedding of a picture, and a
small decoder computes a mask from the embedding and a prompt. The embedding depends on the picture alone: no
adapter changes it. So it is computed when a task is opened, and each click costs only the decoder.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Resampling
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.functional import normalize, pil_to_tensor
from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model
from transformers.models.sam2.modeling_sam2 import Sam2Attention

from lorabel.contracts import BatchAdapters, Contract, Input, Modality
from lorabel.errors import SettingsError
from lorabel.families.base import DigestOf, Family, Fetch
from lorabel.families.cache import EMBEDDINGS, FeatureCache
from lorabel.families.lora_layers import linear_layers
from lorabel.labeling.bit_masks import mask_of, runs_of
from lorabel.mask_contracts import Mask, Masks, MasksInput, MasksTarget, Prompt, Runs
from lorabel.media.decode_memory import decode_memory
from lorabel.media.fetching import digest
from lorabel.media.image import decoded_image, shown_size
from lorabel.settings import Settings

DECODER = "mask_decoder."
# Says whether the object is there at all, which only the tracking of videos uses.
UNUSED_LAYERS = "mask_decoder.pred_obj_score_head."
# JPEGs are decoded at a reduced scale, but at no less than this many times the model's resolution.
DRAFT_SCALE = 2
PICTURES_PER_BATCH = 8
# Masks are brought to the size of the picture in strips of about as many pixels, to save memory.
STRIP_PX = 4_000_000
# See `with_initial_weights`.
SHARPNESS = 2.4


@dataclass(frozen=True)
class PictureEmbedding:
    """The embedding of a picture, on the CPU.

    Attributes:
        levels: (channels, height, width) each: two of high resolution, and the one that prompts are compared with.
        width: of the picture as people see it, in pixels.
        height: in pixels.
    """

    levels: tuple[Tensor, ...]
    width: int
    height: int

    @property
    def nbytes(self) -> int:
        """The size of the tensors."""
        return sum(level.nbytes for level in self.levels)


@dataclass(frozen=True)
class PreparedMasks:
    """A question with its picture.

    Attributes:
        digest: of the picture's file.
        pixels: (3, side, side) uint8 RGB; None if the embedding is there.
        embedding: None if it is not computed yet.
    """

    question: MasksInput
    digest: str
    width: int
    height: int
    pixels: Tensor | None = None
    embedding: PictureEmbedding | None = None

    @property
    def nbytes(self) -> int:
        """The size of the tensors."""
        return sum(part.nbytes for part in (self.pixels, self.embedding) if part is not None)


@dataclass(frozen=True)
class Segmenter(Family):
    """SAM 2 and 2.1.

    Adapters are on the decoder of masks only.

    Attributes:
        encoder_dtype: the precision in which embeddings are computed and kept. The decoder is float32, since
            bfloat16 cannot tell neighbouring pixels apart.
        mean: of the pixels of each channel, in [0, 1].
        std: of the pixels of each channel.
    """

    name: ClassVar[str] = "segmenter"
    inputs: ClassVar[tuple[type[Input], ...]] = (MasksInput,)
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.IMAGE})
    default_source: ClassVar[str] = "hf-hub:facebook/sam2.1-hiera-tiny"

    source: str
    module: Sam2Model
    device: torch.device
    dtype: torch.dtype
    encoder_dtype: torch.dtype
    mean: tuple[float, ...]
    std: tuple[float, ...]
    settings: Settings

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        """Load `hf-hub:owner/name` or `local-dir:folder`; see `Family.load`."""
        name = source.removeprefix("local-dir:").removeprefix("hf-hub:")
        try:
            processor = Sam2ImageProcessor.from_pretrained(name)
            module = Sam2Model.from_pretrained(name, dtype=torch.float32, use_safetensors=True)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise SettingsError(
                f"MODEL_SEGMENTER={source!r} cannot be loaded: {error}; expected hf-hub:owner/name or "
                "local-dir:folder of a SAM 2 model of transformers with safetensors weights"
            ) from error
        module.requires_grad_(False).eval().to(device)
        mean, std = tuple(processor.image_mean), tuple(processor.image_std)
        return cls(source, module, device, torch.float32, dtype, mean, std, settings)

    @classmethod
    def tiny(cls, folder: Path) -> str:
        """Write a tiny SAM 2 with pictures of 32 x 32 pixels; see `Family.tiny`."""
        save_model(with_initial_weights(Sam2Model(small_config(32, (8, 16, 24, 32), 32))), folder)
        return f"local-dir:{folder}"

    @property
    def side_px(self) -> int:
        """The side of the square to which each picture is stretched."""
        return int(self.module.config.prompt_encoder_config.image_size)

    def prepare(self, question: MasksInput, fetch: Fetch) -> PreparedMasks:
        """Decode the picture at the model's resolution; see `Family.prepare`."""
        (content,) = question.contents
        assert content.media is not None
        file = fetch(content.media)
        settings, side = self.settings, self.side_px
        width, height = shown_size(file)
        memory = decode_memory(settings.media_decode_mb)
        with decoded_image(file, settings.media_max_megapixels, DRAFT_SCALE * side, memory) as image:
            pixels = pil_to_tensor(image.resize((side, side), Resampling.BILINEAR))
        return PreparedMasks(question, digest(file), width, height, pixels)

    def precompute(
        self, prepared_inputs: Sequence[PreparedMasks], trained: Any, generator: torch.Generator | None
    ) -> Sequence[PreparedMasks]:
        """Compute the embeddings, which no adapter changes; see `Family.precompute`."""
        return self._with_embeddings(prepared_inputs, FeatureCache({}))

    def augment(
        self, prepared_inputs: Sequence[PreparedMasks], generator: torch.Generator
    ) -> Sequence[PreparedMasks]:
        """Return the inputs unchanged: their embeddings are computed already."""
        return prepared_inputs

    def recall(
        self,
        question: MasksInput,
        digest_of: DigestOf,
        adapter: str | None,
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> PreparedMasks | None:
        """Take the embedding of the picture from the cache; see `Family.recall`."""
        (content,) = question.contents
        file_digest = None if content.media is None else digest_of(content.media)
        embedding = None if file_digest is None else cache.get(EMBEDDINGS, file_digest)
        if embedding is None or file_digest is None:
            return None
        return PreparedMasks(question, file_digest, embedding.width, embedding.height, embedding=embedding)

    def answer(
        self, prepared_input: PreparedMasks, adapter: str | None, bank: BatchAdapters, cache: FeatureCache
    ) -> Contract | None:
        """Answer a question without prompts whose embedding is computed."""
        if prepared_input.embedding is None or prepared_input.question.prompts:
            return None
        return self._output(prepared_input, ())

    @torch.inference_mode()
    def predict(
        self,
        prepared_inputs: Sequence[PreparedMasks],
        adapters: Sequence[str | None],
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> Sequence[Contract]:
        """Compute the mask of each prompt of each input; see `Family.predict`."""
        embedded = self._with_embeddings(prepared_inputs, cache)
        prompts = [
            (index, place, prompt)
            for index, prepared in enumerate(embedded)
            for place, prompt in enumerate(prepared.question.prompts)
        ]
        found: dict[tuple[int, int], Mask] = {}
        for group in _by_layout(prompts):
            rows = [index for index, _, _ in group]
            with bank.use([adapters[row] for row in rows]):
                logits, ious = self._decode([embedded[row] for row in rows], [prompt for *_, prompt in group])
            for (index, place, prompt), row_logits, iou in zip(
                group, logits.cpu().numpy(), ious.tolist(), strict=True
            ):
                runs = _runs(row_logits, embedded[index].width, embedded[index].height)
                found[index, place] = Mask(label=prompt.label, runs=runs, probability=min(max(iou, 0.0), 1.0))
        return [
            self._output(prepared, [found[index, place] for place in range(len(prepared.question.prompts))])
            for index, prepared in enumerate(embedded)
        ]

    def loss(self, prepared_inputs: Sequence[PreparedMasks], targets: Sequence[MasksTarget]) -> Tensor:
        """Compute the loss of each input, of which prompt i asks for mask i of the target; see `Family.loss`."""
        embedded = self._with_embeddings(prepared_inputs, FeatureCache({}))
        prompts = [
            (index, place, prompt)
            for index, (prepared, target) in enumerate(zip(embedded, targets, strict=True))
            for place, prompt in enumerate(prepared.question.prompts[: len(target.masks)])
        ]
        losses: list[list[Tensor]] = [[] for _ in embedded]
        for group in _by_layout(prompts):
            rows = [index for index, _, _ in group]
            logits, ious = self._decode([embedded[row] for row in rows], [prompt for *_, prompt in group])
            masks = [_at_size(targets[index].masks[place][0], targets[index], logits) for index, place, _ in group]
            for row, loss in zip(rows, mask_losses(logits, ious, torch.stack(masks)), strict=True):
                losses[row].append(loss)
        return torch.stack([torch.stack(each).mean() for each in losses])

    def lora_layers(self) -> list[str]:
        """Return the names of the linear layers of the decoder of masks."""
        names = linear_layers(self.module)
        return [name for name in names if name.startswith(DECODER) and not name.startswith(UNUSED_LAYERS)]

    def _output(self, prepared: PreparedMasks, masks: Sequence[Mask]) -> Masks:
        tolerance_px = self.settings.polygon_tolerance_px
        return Masks(masks=tuple(masks), width=prepared.width, height=prepared.height, tolerance_px=tolerance_px)

    @torch.no_grad()
    def _with_embeddings(
        self, prepared_inputs: Sequence[PreparedMasks], cache: FeatureCache
    ) -> list[PreparedMasks]:
        """The inputs with embeddings; those that were missing are computed, once for equal files, and cached."""
        missing = {each.digest: each for each in prepared_inputs if each.embedding is None}
        pictures, computed = list(missing.values()), dict[str, PictureEmbedding]()
        for start in range(0, len(pictures), PICTURES_PER_BATCH):
            batch = pictures[start : start + PICTURES_PER_BATCH]
            pixels = torch.stack([each.pixels for each in batch if each.pixels is not None]).to(self.device)
            normalised = normalize(pixels.float().div_(255), self.mean, self.std)
            is_mixed = self.encoder_dtype != self.dtype
            with torch.autocast(self.device.type, self.encoder_dtype, enabled=is_mixed):
                levels = self.module.get_image_embeddings(normalised)
            for row, each in enumerate(batch):
                own = tuple(level[row].to("cpu", self.encoder_dtype).clone() for level in levels)
                computed[each.digest] = PictureEmbedding(own, each.width, each.height)
                cache.put(EMBEDDINGS, each.digest, computed[each.digest])
        return [
            each if each.embedding is not None else replace(each, pixels=None, embedding=computed[each.digest])
            for each in prepared_inputs
        ]

    def _decode(self, inputs: Sequence[PreparedMasks], prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Decode one prompt per row; the prompts have equally many points, and all or none have a box.

        Returns:
            (rows, height, width): logits of the masks at a quarter of the model's resolution, and (rows,): the IoU
            that the model expects.
        """
        levels = zip(*(each.embedding.levels for each in inputs if each.embedding is not None), strict=True)
        question: dict[str, Tensor] = {}
        if prompts[0].points:
            places = [[[point.x, point.y] for point in prompt.points] for prompt in prompts]
            signs = [[int(point.is_positive) for point in prompt.points] for prompt in prompts]
            question["input_points"] = self._in_pixels(places)
            question["input_labels"] = torch.tensor(signs, dtype=torch.int32, device=self.device)[:, None]
        if prompts[0].corners is not None:
            question["input_boxes"] = self._in_pixels([prompt.corners for prompt in prompts])
        output = self.module(
            image_embeddings=[torch.stack(level).to(self.device, self.dtype) for level in levels],
            multimask_output=False,
            **question,
        )
        return output.pred_masks[:, 0, 0].float(), output.iou_scores[:, 0, 0].float()

    def _in_pixels(self, places: Any) -> Tensor:
        """Fractions of the picture as pixels of the model; each row is one prompt.

        SAM 2 adds half a pixel, since its coordinates are those of pixels, not of places between them.
        """
        return (torch.tensor(places, dtype=self.dtype, device=self.device) * self.side_px - 0.5)[:, None]


def mask_losses(logits: Tensor, ious: Tensor, masks: Tensor) -> Tensor:
    """Focal loss and Dice loss of masks, and the squared error of their expected IoUs.

    Dice (https://arxiv.org/abs/1606.04797) counts small things as much as large ones; focal loss
    (https://arxiv.org/abs/1708.02002) sharpens edges.

    Args:
        logits: (rows, height, width).
        ious: (rows,): what the model expects.
        masks: (rows, height, width): the right share of each pixel, in [0, 1].

    Returns:
        (rows,).
    """
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    focal = (6 - 5 * torch.exp(-cross_entropy)) * cross_entropy
    shares = logits.sigmoid()
    common = (shares * masks).sum(dim=(1, 2))
    dice = 1 - (2 * common + 1) / (shares.sum(dim=(1, 2)) + masks.sum(dim=(1, 2)) + 1)
    predicted, right = logits.detach() > 0, masks > 0.5
    union = (predicted | right).sum(dim=(1, 2)).clamp(min=1)
    iou = (predicted & right).sum(dim=(1, 2)) / union
    return focal.mean(dim=(1, 2)) + dice + 0.1 * (ious - iou) ** 2


def small_config(side_px: int, widths: tuple[int, int, int, int], hidden: int) -> Sam2Config:
    """Return the configuration of a small SAM 2, whose masks have half the resolution of its pictures.

    Args:
        side_px: a multiple of 32.
        widths: of the four stages of the tower, divisible by 1, 2, 3 and 4. They must differ: transformers pools
            the shortcut of a stage only if its width is new.
        hidden: the width of the decoder; a multiple of 32.
    """
    sizes = [[side_px // stride] * 2 for stride in (2, 4, 8)]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": widths[0],
        "image_size": [side_px] * 2,
        "patch_kernel_size": [5, 5],
        "patch_stride": [2, 2],
        "patch_padding": [2, 2],
        "blocks_per_stage": [1, 1, 3, 1],
        "embed_dim_per_stage": list(widths),
        "num_attention_heads_per_stage": [1, 2, 3, 4],
        "window_size_per_stage": [8, 4, 4, 3],
        # Not the first block of a stage: pooling there divides by the size of the window.
        "global_attention_blocks": [3, 4],
        "window_positional_embedding_background_size": [8, 8],
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": list(widths[::-1]),
        "backbone_feature_sizes": sizes,
        "fpn_hidden_size": hidden,
    }
    decoder = {
        "hidden_size": hidden,
        "mlp_dim": 2 * hidden,
        "num_attention_heads": 4,
        "attention_downsample_rate": 1,
        "iou_head_hidden_dim": hidden,
        "dynamic_multimask_via_stability": False,
    }
    prompts = {"hidden_size": hidden, "image_size": side_px, "patch_size": 8}
    return Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)


@torch.no_grad()
def with_initial_weights(model: Sam2Model) -> Sam2Model:
    """Give a new model weights from which it learns to obey clicks.

    transformers' own initial weights are made to be overwritten by a checkpoint. (1) It draws two different random
    matrices for the positions of points and for those of the picture, and trains neither; a click then has nothing
    in common with the place that it is at. (2) It draws weights with a standard deviation of 0.02, which is 10
    times too small for narrow layers. (3) Here queries and keys start with equal weights, so that a click looks at
    its own place from the first step.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            layer.reset_parameters()
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, std=0.3)
    for name, weight in model.named_parameters():
        if "pos_embed" in name:
            nn.init.normal_(weight, std=0.02)
    for layer in model.mask_decoder.modules():
        if isinstance(layer, Sam2Attention):
            layer.q_proj.weight.mul_(SHARPNESS)
            layer.k_proj.weight.copy_(layer.q_proj.weight)
            layer.q_proj.bias.zero_()
            layer.k_proj.bias.zero_()
    positions = model.shared_image_embedding.positional_embedding
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(positions)
    return model


def save_model(model: Sam2Model, folder: Path) -> None:
    """Write a model that `small_config` describes, with the description of its pictures."""
    model.save_pretrained(folder)
    side = model.config.prompt_encoder_config.image_size
    size, half = {"height": side, "width": side}, [0.5] * 3
    Sam2ImageProcessor(size=size, image_mean=half, image_std=half).save_pretrained(folder)


def _by_layout(prompts: Sequence[tuple[int, int, Prompt]]) -> list[list[tuple[int, int, Prompt]]]:
    """Groups of prompts that have equally many points, and all or none a box: padding would change the masks."""
    groups: Mapping[tuple[int, bool], list[tuple[int, int, Prompt]]] = defaultdict(list)
    for row in prompts:
        groups[len(row[2].points), row[2].corners is not None].append(row)
    return list(MappingProxyType(groups).values())


def _at_size(runs: Runs, target: MasksTarget, logits: Tensor) -> Tensor:
    """The mask of a target at the size of logits: the share of each of their pixels that is inside."""
    mask = torch.from_numpy(mask_of(runs, target.width, target.height)).to(logits.device, torch.float32)
    size = (int(logits.shape[-2]), int(logits.shape[-1]))
    shares: Tensor = functional.interpolate(mask[None, None], size, mode="area")[0, 0]
    return shares


def _runs(logits: NDArray[np.float32], width: int, height: int) -> Runs:
    """The mask where logits are positive, after bilinear interpolation to the size of the picture."""
    mask = np.zeros((height, width), bool)
    left, right, across = _neighbours(logits.shape[1], width)
    rows_per_strip = max(1, STRIP_PX // width)
    for start in range(0, height, rows_per_strip):
        rows = slice(start, min(height, start + rows_per_strip))
        above, below, down = (part[rows] for part in _neighbours(logits.shape[0], height))
        strip = logits[above] + (logits[below] - logits[above]) * down[:, None]
        if strip.max() > 0:
            mask[rows] = strip[:, left] + (strip[:, right] - strip[:, left]) * across > 0
    return runs_of(mask)


def _neighbours(small: int, large: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Of each of `large` pixels the two of `small` pixels it lies between, and how far it is from the first."""
    places = ((np.arange(large) + 0.5) * small / large - 0.5).clip(0, small - 1)
    first = places.astype(np.intp)
    return first, np.minimum(first + 1, small - 1), (places - first).astype(np.float32)
