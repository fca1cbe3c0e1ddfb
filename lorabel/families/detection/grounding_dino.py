"""MM-GroundingDINO, LLMDet and Grounding DINO: the label texts of a question are read together with the picture.

The texts become a prompt, `red circle . blue thing .`. Picture and prompt are fused in an encoder, which proposes
the places that fit the prompt best as queries; a decoder turns each query into a box, and into a logit for each
token. So only what the backbone computes of a picture (and its projection) is the same for all questions.

- Grounding DINO: https://arxiv.org/abs/2303.05499; MM-GroundingDINO: https://arxiv.org/abs/2401.02361;
  LLMDet: https://arxiv.org/abs/2501.18954.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert
from transformers import (
    AutoConfig,
    AutoModelForZeroShotObjectDetection,
    AutoTokenizer,
    GroundingDinoImageProcessor,
)

from lorabel.contracts import BatchAdapters
from lorabel.errors import SettingsError
from lorabel.families.base import LOAD_DTYPE
from lorabel.families.cache import FeatureCache
from lorabel.families.detection.box_model import Asked, BoxModel, Places, batches, normalised
from lorabel.families.detection.prompts import Prompt, PromptWriter
from lorabel.media.plain_jpeg import Pixels

# The logit of a label at a query of another prompt: probability 0.00005.
NOT_ASKED = -10.0
# Queries whose directions have this cosine or more show the same, and how fast that becomes certain.
ALIKE, SHARPNESS = 0.6, 10.0


class GroundingDino(BoxModel):
    """A model of transformers' classes `MMGroundingDinoForObjectDetection` and `GroundingDinoForObjectDetection`.

    The backbone and the projection of its maps stand beside the rest of the model, which gets the projected maps
    in place of pixels. All computing is transformers' own.

    The part that fuses is float32 also where the backbone is bfloat16: coordinates in bfloat16 are off by pixels.
    """

    text_layers = ("model.model.text_backbone.", "model.model.text_projection")
    encoder_layers = ("backbone.",)
    # At 800 x 1333 pixels a picture has 22,000 positions, at each of which every head looks around.
    most_rows = 4

    def __init__(self, model: Any, processor: Any, tokenizer: Any) -> None:
        super().__init__()
        # Not `config`: PEFT would take this for a model of transformers.
        self.processor, self.model_config = processor, model.config
        self.backbone, self.projections = model.model.backbone.conv_encoder, model.model.input_proj_vision
        model.model.backbone = _KnownMaps(model.model.backbone.position_embedding, self._level_shapes)
        model.model.input_proj_vision = nn.ModuleList(nn.Identity() for _ in self.projections)
        self.model = model
        self.prompts = PromptWriter(tokenizer, model.model.special_tokens.tolist(), self.model_config.max_text_len)
        # Of the heads, only the last gives the answer; the decoder's own copies move its reference points.
        self.head_layers = (
            "model.model.encoder.",
            "model.model.enc_output",
            "model.model.encoder_output_bbox_embed.",
            "model.model.decoder.layers.",
            "model.model.decoder.reference_points_head.",
            f"model.bbox_embed.{len(model.bbox_embed) - 1}.",
        )

    @classmethod
    def load(cls, name: str) -> Self:
        """Load what `from_pretrained` of transformers calls by this name."""
        backbone = getattr(AutoConfig.from_pretrained(name).backbone_config, "model_type", None)
        if backbone != "swin":
            raise SettingsError(f"its backbone is {backbone!r}, expected 'swin'")
        processor = GroundingDinoImageProcessor.from_pretrained(name)
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, trust_remote_code=False)
        model = AutoModelForZeroShotObjectDetection.from_pretrained(name, use_safetensors=True, dtype=LOAD_DTYPE)
        return cls(model, processor, tokenizer)

    def place_on(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Move the model to a device; only the backbone gets the precision."""
        self.to(device=device)
        self.backbone.to(dtype=dtype)
        return self

    @property
    def longest_px(self) -> int:
        """The longest side of a picture that the image processor leaves."""
        limits = ("longest_edge", "max_height", "max_width", "height", "width", "shortest_edge")
        return max(int(getattr(self.processor.size, limit) or 0) for limit in limits)

    @property
    def feature_dim(self) -> int:
        """The width of a query, and the offset of its logits."""
        return int(self.model_config.d_model) + 1

    def prepare(self, image: Pixels | Image.Image) -> tuple[Tensor, tuple[float, float]]:
        """(3, height, width) uint8, resized as the image processor says, and not padded."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        prepared = self.processor(pixels, do_normalize=False, do_pad=False, return_tensors="pt")
        return (prepared["pixel_values"][0] * 255).round().clamp(0, 255).to(torch.uint8), (1.0, 1.0)

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        """(pictures, positions, d_model): the projected maps of all levels, the finest first, row by row.

        Args:
            pixels: (pictures, 3, height, width) uint8.
        """
        height, width = pixels.shape[2:]
        full_height, full_width = self._padded(height, width)
        images = functional.pad(
            normalised(pixels, self.processor), (0, full_width - width, 0, full_height - height)
        )
        maps = [each.float() for each in self._backbone_maps(images)]
        levels = [projection(each) for projection, each in zip(self.projections, maps, strict=False)]
        for projection in self.projections[len(maps) :]:
            levels.append(projection(levels[-1] if len(levels) > len(maps) else maps[-1]))
        return torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)

    def ask(
        self, questions: Sequence[Asked], adapters: Sequence[str | None], bank: BatchAdapters, cache: FeatureCache
    ) -> list[Places]:
        """Answer each question with its adapter. A row is a question's picture with one of its prompts."""
        rows = [
            (index, prompt)
            for index, question in enumerate(questions)
            for prompt in self.prompts.write(question.labels)
        ]
        answers: list[list[Places]] = [[] for _ in questions]
        shapes = [questions[index].picture.read_px for index, _ in rows]
        of_row: dict[int, Places] = {}
        for batch in batches(shapes, self.most_rows):
            asked = [rows[row] for row in batch]
            states = torch.stack([questions[index].states.to(self.device).float() for index, _ in asked])
            with (
                bank.use([adapters[index] for index, _ in asked]),
                torch.autocast(self.device.type, enabled=False),
            ):
                fused = self._fuse(
                    states, shapes[batch[0]], [(prompt, len(questions[index].labels)) for index, prompt in asked]
                )
            of_row.update(zip(batch, fused, strict=True))
        for row, (index, _) in enumerate(rows):
            answers[index].append(of_row[row])
        return [_joined(of_prompts) for of_prompts in answers]

    def directions(self, features: Tensor) -> Tensor:
        """(queries, d_model): how each query differs from the mean of its picture."""
        states = features[:, :-1]
        return functional.normalize(states - states.mean(0), dim=-1)

    def logits_of_likeness(self, features: Tensor, cosines: Tensor) -> Tensor:
        """(queries, labels). The model has no calibrated way to compare places; ALIKE and SHARPNESS are ours."""
        return SHARPNESS * (cosines - ALIKE)

    def _backbone_maps(self, images: Tensor) -> list[Tensor]:
        dtype = next(self.backbone.parameters()).dtype
        mask = torch.ones(len(images), *images.shape[2:], dtype=torch.long, device=images.device)
        return [each for each, _ in self.backbone(images.to(dtype), mask)]

    def _level_shapes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Height and width of the maps of all levels of a picture, in positions."""
        backbone = self.model_config.backbone_config
        strides = [int(backbone.patch_size) * 2 ** (stage - 1) for stage in backbone.out_indices]
        while len(strides) < self.model_config.num_feature_levels:
            strides.append(2 * strides[-1])
        return [(-(-height // stride), -(-width // stride)) for stride in strides]

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which a picture is padded: a very long one has fewer positions than queries."""
        while (
            sum(rows * columns for rows, columns in self._level_shapes(height, width))
            < self.model_config.num_queries
        ):
            height, width = (height + 32, width) if height < width else (height, width + 32)
        return height, width

    def _fuse(
        self, states: Tensor, read_px: tuple[int, int], prompts: Sequence[tuple[Prompt, int]]
    ) -> list[Places]:
        """Answer rows of pictures of one size.

        Args:
            states: (rows, positions, d_model) float32.
            prompts: of each row, with the number of labels of its question.
        """
        height, width = self._padded(*read_px)
        pixel_mask = torch.zeros(len(states), height, width, dtype=torch.long, device=states.device)
        pixel_mask[:, : read_px[0], : read_px[1]] = 1
        tokens = nn.utils.rnn.pad_sequence(
            [torch.tensor(prompt.tokens) for prompt, _ in prompts], batch_first=True
        )
        lengths = torch.tensor([len(prompt.tokens) for prompt, _ in prompts])
        mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).to(states.device)
        outputs = self.model.model(
            pixel_values=states.transpose(1, 2)[..., None],
            input_ids=tokens.to(states.device),
            attention_mask=mask.long(),
            pixel_mask=pixel_mask,
        )
        attempts = [(outputs.enc_outputs_class, _corners(outputs.enc_outputs_coord_logits))]
        for level, (class_head, box_head) in enumerate(
            zip(self.model.class_embed, self.model.bbox_embed, strict=True)
        ):
            queries = outputs.intermediate_hidden_states[:, level]
            reference = (
                outputs.intermediate_reference_points[:, level - 1] if level else outputs.init_reference_points
            )
            logits = class_head(queries, outputs.encoder_last_hidden_state_text, mask)
            attempts.append((logits, _corners(box_head(queries) + torch.special.logit(reference, eps=1e-5))))
        places = []
        for row, (prompt, labels) in enumerate(prompts):
            stages = tuple(
                (_label_logits(logits[row], prompt, labels), corners[row]) for logits, corners in attempts
            )
            (logits, corners), earlier = stages[-1], stages[:-1]
            features = partial(self._features, outputs.intermediate_hidden_states[row, -1])
            places.append(Places(corners, logits, features, earlier))
        return places

    def _features(self, queries: Tensor) -> Tensor:
        """(queries, d_model + 1): a token's logit is the product with its state, and 1 at the end."""
        bias = getattr(self.model.class_embed[-1], "bias", None)
        if bias is None:
            return functional.pad(queries, (0, 1))
        return torch.cat([queries / queries.shape[-1] ** 0.5, bias.expand(*queries.shape[:-1], 1)], dim=-1)


class _KnownMaps(nn.Module):
    """Stands in the model where its backbone was: takes states apart into the maps that they were made of."""

    def __init__(self, position_embedding: nn.Module, level_shapes: Any) -> None:
        super().__init__()
        self.position_embedding, self._level_shapes = position_embedding, level_shapes

    def forward(self, states: Tensor, pixel_mask: Tensor) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
        """Maps with their masks, and their position embeddings.

        Args:
            states: (pictures, d_model, positions, 1).
            pixel_mask: (pictures, height, width) of what the model read: 0 where a picture is padded.
        """
        shapes = self._level_shapes(*pixel_mask.shape[1:])
        levels = torch.split(states[..., 0], [height * width for height, width in shapes], dim=2)
        maps = []
        for level, shape in zip(levels, shapes, strict=True):
            mask = functional.interpolate(pixel_mask[None].float(), size=shape).to(torch.bool)[0]
            maps.append((level.reshape(*level.shape[:2], *shape), mask))
        return maps, [self.position_embedding(level, mask).to(level.dtype) for level, mask in maps]


def _corners(logits: Tensor) -> Tensor:
    boxes: Tensor = box_convert(logits.sigmoid(), "cxcywh", "xyxy")
    return boxes


def _label_logits(logits: Tensor, prompt: Prompt, labels: int) -> Tensor:
    """(places, labels): for each label the mean of its texts, of each of which the likeliest token counts.

    Args:
        logits: (places, tokens).
    """
    columns = [logits.new_full((len(logits),), NOT_ASKED)] * labels
    for label, spans in prompt.spans.items():
        columns[label] = torch.stack([logits[:, start:end].amax(1) for start, end in spans]).mean(0)
    return torch.stack(columns, dim=1)


def _joined(of_prompts: Sequence[Places]) -> Places:
    """The places of all prompts of a question. Non-maximum suppression tells later which are the same thing."""
    if len(of_prompts) == 1:
        return of_prompts[0]
    corners, logits = (
        torch.cat([getattr(places, name) for places in of_prompts]) for name in ("corners", "logits")
    )
    stages = tuple(
        (torch.cat([stage[0] for stage in of_level]), torch.cat([stage[1] for stage in of_level]))
        for of_level in zip(*(places.stages for places in of_prompts), strict=True)
    )
    return Places(corners, logits, lambda: torch.cat([places.features() for places in of_prompts]), stages)
