"""The models of the plain loop (`benchmarks/limit.py`), as open_clip and transformers offer them.

Texts are encoded once, before the loop, since the labels of a project seldom change.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol, cast

import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, Owlv2ForObjectDetection, Owlv2ImageProcessor

from benchmarks.question import LABELS
from lorabel.families.base import transformers_name

# Boxes with a smaller score are left out, as the model server leaves them out.
SMALLEST_SCORE = 0.01


class LoopModel(Protocol):
    """A model in a plain loop. `side_px` is the side of its square input."""

    side_px: int

    def cast(self, dtype: torch.dtype) -> None:
        """Compute in this precision from now on."""

    def read(self, image: Image.Image) -> Tensor:
        """(3, side, side): the model's input for a picture. Called by many threads."""

    def answer(self, pixels: Tensor) -> list[Any]:
        """What the model says about each picture of a batch, on the CPU."""


class DualEncoderModel:
    """Plain open_clip: the probabilities of LABELS."""

    def __init__(self, source: str, device: torch.device) -> None:
        self._device = device
        self._model, _, self._transform = open_clip.create_model_and_transforms(source)
        self._model.requires_grad_(False).eval().to(device)
        tokens = open_clip.get_tokenizer(source)(list(LABELS)).to(device)
        with torch.inference_mode():
            self._texts = self._model.encode_text(tokens, normalize=True).T
        self.side_px: int = self._model.visual.image_size[0]

    def cast(self, dtype: torch.dtype) -> None:
        self._model, self._texts = self._model.to(dtype), self._texts.to(dtype)

    def read(self, image: Image.Image) -> Tensor:
        return cast(Tensor, self._transform(image))

    def answer(self, pixels: Tensor) -> list[Any]:
        features = cast(Any, self._model).encode_image(
            pixels.to(self._device, self._texts.dtype, non_blocking=True)
        )
        logits = 100 * functional.normalize(features, dim=-1) @ self._texts
        return cast(list[Any], logits.float().softmax(-1).tolist())


class DetectorModel:
    """Plain transformers: the boxes of LABELS. The model is called in parts, so that no text is encoded twice."""

    def __init__(self, source: str, device: torch.device) -> None:
        name = transformers_name(source)
        self._device, self._dtype = device, torch.float32
        self._processor = Owlv2ImageProcessor.from_pretrained(name)
        self._model = Owlv2ForObjectDetection.from_pretrained(name, dtype=torch.float32)
        self._model.requires_grad_(False).eval().to(device)
        tokens = AutoTokenizer.from_pretrained(name)(
            list(LABELS), padding=True, truncation=True, return_tensors="pt"
        ).to(device)
        with torch.inference_mode():
            self._texts = self._model.owlv2.get_text_features(**tokens).pooler_output
        self.side_px = int(self._processor.size["height"])

    def cast(self, dtype: torch.dtype) -> None:
        self._model, self._texts, self._dtype = self._model.to(dtype), self._texts.to(dtype), dtype

    def read(self, image: Image.Image) -> Tensor:
        return cast(Tensor, self._processor(image, return_tensors="pt")["pixel_values"][0])

    def answer(self, pixels: Tensor) -> list[Any]:
        model = self._model
        states = model.image_embedder(pixels.to(self._device, self._dtype, non_blocking=True))[0]
        patches = states.flatten(1, 2)
        logits, _ = model.class_predictor(patches, self._texts.expand(len(patches), -1, -1))
        boxes = model.box_predictor(patches, states)
        scores, labels = logits.float().sigmoid().max(-1)
        rows = zip(boxes.float().cpu(), scores.cpu(), labels.cpu(), strict=True)
        answers = []
        for picture_boxes, picture_scores, picture_labels in rows:
            is_kept = picture_scores >= SMALLEST_SCORE
            kept = picture_boxes[is_kept], picture_scores[is_kept], picture_labels[is_kept]
            answers.append(tuple(part.tolist() for part in kept))
        return answers


MODELS: Mapping[str, Callable[[str, torch.device], LoopModel]] = MappingProxyType(
    {"dual_encoder": DualEncoderModel, "detector": DetectorModel}
)
