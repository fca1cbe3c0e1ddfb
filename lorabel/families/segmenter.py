"""SAM 2 of transformers: clicks and boxes on a picture become masks.

Segment Anything 2 (https://arxiv.org/abs/2408.00714). A large tower computes the embedding of a picture, and a
small decoder computes a mask from the embedding and a prompt. The embedding depends on the picture alone: no
adapter changes it. So it is computed when a task is opened, and each click costs only the decoder.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from PIL.Image import Resampling
from safetensors import SafetensorError
from torch import Tensor
from torchvision.transforms.functional import normalize, pil_to_tensor
from transformers import Sam2ImageProcessor, Sam2Model

from lorabel.contracts import BatchAdapters, Contract, Input, Modality
from lorabel.errors import SettingsError
from lorabel.families.base import LOAD_DTYPE, DigestOf, Family, Fetch, transformers_name
from lorabel.families.cache import EMBEDDINGS, FeatureCache
from lorabel.families.lora_layers import linear_layers
from lorabel.families.segmentation.mask_logits import at_size, mask_losses, runs_at_size
from lorabel.families.segmentation.small_sam2 import save_model, small_config, with_initial_weights
from lorabel.mask_contracts import Mask, Masks, MasksInput, MasksTarget, Prompt
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
# Prompts in a batch of the decoder, each of which takes a copy of its picture's embedding: 17 MB in float32.
PROMPTS_PER_BATCH = 32
# Masks of a picture that a training step learns from: pictures of cells have hundreds.
MASKS_PER_STEP = 8


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
        name = transformers_name(source)
        try:
            processor = Sam2ImageProcessor.from_pretrained(name)
            module = Sam2Model.from_pretrained(name, dtype=LOAD_DTYPE, use_safetensors=True)
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

    def augment(
        self, prepared_inputs: Sequence[PreparedMasks], targets: Sequence[MasksTarget], generator: torch.Generator
    ) -> tuple[Sequence[PreparedMasks], Sequence[MasksTarget]]:
        """Choose MASKS_PER_STEP masks of each picture that has more, with their prompts; see `Family.augment`."""
        inputs, chosen_targets = [], []
        for prepared, target in zip(prepared_inputs, targets, strict=True):
            count = min(len(prepared.question.prompts), len(target.masks))
            if count > MASKS_PER_STEP:
                chosen = torch.randperm(count, generator=generator)[:MASKS_PER_STEP].tolist()
                prompts = tuple(prepared.question.prompts[index] for index in chosen)
                question = prepared.question.model_copy(update={"prompts": prompts})
                prepared = replace(prepared, question=question)
                target = replace(target, masks=tuple(target.masks[index] for index in chosen))
            inputs.append(prepared)
            chosen_targets.append(target)
        return inputs, chosen_targets

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
        masks: dict[tuple[int, int], Mask] = {}
        for group in _by_layout(prompts):
            rows = [index for index, _, _ in group]
            with bank.use([adapters[row] for row in rows]):
                logits, ious = self._decode([embedded[row] for row in rows], [prompt for *_, prompt in group])
            for (index, place, prompt), row_logits, iou in zip(
                group, logits.cpu().numpy(), ious.tolist(), strict=True
            ):
                runs = runs_at_size(row_logits, embedded[index].width, embedded[index].height)
                masks[index, place] = Mask(label=prompt.label, runs=runs, probability=min(max(iou, 0.0), 1.0))
        return [
            self._output(prepared, [masks[index, place] for place in range(len(prepared.question.prompts))])
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
            masks = [at_size(targets[index].masks[place][0], targets[index], logits) for index, place, _ in group]
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


def _by_layout(prompts: Sequence[tuple[int, int, Prompt]]) -> list[list[tuple[int, int, Prompt]]]:
    """Groups of prompts that have equally many points, and all or none a box: padding would change the masks.

    A group has at most PROMPTS_PER_BATCH prompts.
    """
    groups: dict[tuple[int, bool], list[tuple[int, int, Prompt]]] = defaultdict(list)
    for row in prompts:
        groups[len(row[2].points), row[2].corners is not None].append(row)
    return [
        group[start : start + PROMPTS_PER_BATCH]
        for group in groups.values()
        for start in range(0, len(group), PROMPTS_PER_BATCH)
    ]
