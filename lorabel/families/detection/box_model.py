"""What the detector asks of a class of models. Each file beside this one serves a class: `owlv2.py` and others."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor, nn

from lorabel.contracts import BatchAdapters
from lorabel.families.cache import FeatureCache
from lorabel.families.detection.views import Picture
from lorabel.families.lora_layers import linear_layers
from lorabel.media.plain_jpeg import Pixels


@dataclass(frozen=True)
class Asked:
    """A question about a picture that is encoded.

    Args:
        states: (positions, width), see `BoxModel.encode_pictures`.
        labels: for each label its texts.
    """

    states: Tensor
    picture: Picture
    labels: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Places:
    """What a model says of places in one picture, each of which has one box. In float32.

    Args:
        corners: (places, 4): left, top, right and bottom as fractions of what `Picture.extent` is about.
        logits: (places, labels): that a label names what is there.
        features: computes (places, dim): what the logits of a place are linear in, with the last number as the
            offset. Only heads, and questions with examples or for features, need it.
        stages: logits and corners of the model's earlier attempts at the answer, which learn, too.
    """

    corners: Tensor
    logits: Tensor
    features: Callable[[], Tensor]
    stages: tuple[tuple[Tensor, Tensor], ...] = ()


class BoxModel(nn.Module, ABC):
    """A base model of the detector, with its preparation of pictures and texts.

    It is no model of transformers: PEFT asks these for parts that some have not.

    Attributes:
        text_layers, encoder_layers, head_layers: how the names of layers begin that read texts; that compute the
            states of pictures; and that compute answers from both. No other layer may have an adapter.
        most_rows: pictures, or questions, in a batch.
    """

    text_layers: tuple[str, ...]
    encoder_layers: tuple[str, ...]
    head_layers: tuple[str, ...]
    most_rows: int

    @classmethod
    @abstractmethod
    def load(cls, name: str) -> Self:
        """Load what `from_pretrained` of transformers calls by this name."""

    @abstractmethod
    def place_on(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Move the model to a device, in a precision as far as boxes stay exact."""

    @property
    @abstractmethod
    def longest_px(self) -> int:
        """The longer side of the largest picture that the model reads, in pixels."""

    @property
    @abstractmethod
    def feature_dim(self) -> int:
        """The number of features of a place."""

    @abstractmethod
    def prepare(self, image: Pixels | Image.Image) -> tuple[Tensor, tuple[float, float]]:
        """(3, height, width) uint8 as the model reads it, and the part of width and height that is the picture.

        Args:
            image: RGB; an array is (height, width, 3) uint8.
        """

    @abstractmethod
    def encode_pictures(self, pixels: Tensor) -> Tensor:
        """(pictures, positions, width): what the model computes of pictures without knowing the labels.

        Args:
            pixels: (pictures, 3, height, width) uint8 on the model's device.
        """

    @abstractmethod
    def ask(
        self, questions: Sequence[Asked], adapters: Sequence[str | None], bank: BatchAdapters, cache: FeatureCache
    ) -> list[Places]:
        """Answer each question with its adapter."""

    @abstractmethod
    def directions(self, features: Tensor) -> Tensor:
        """(places, n) of length 1: places that show the same have a large cosine."""

    @abstractmethod
    def logits_of_likeness(self, features: Tensor, cosines: Tensor) -> Tensor:
        """(places, labels) logits that places show the same as examples, from cosines of `directions`."""

    def likeness(self, features: Tensor, examples: Tensor) -> Tensor:
        """(places, examples) logits that places show the same as examples, which are indices of places."""
        directions = self.directions(features)
        return self.logits_of_likeness(features, directions @ directions[examples].T)

    def layers(self, *prefixes: str) -> list[str]:
        """Return the names of the linear layers that begin with one of the prefixes."""
        return [name for name in linear_layers(self) if name.startswith(prefixes)]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.parameters()).device


def normalised(pixels: Tensor, processor: Any) -> Tensor:
    """Pixels in [0, 255] with the mean and deviation of each channel that an image processor has, as float32."""
    mean, std = (
        torch.tensor(numbers, device=pixels.device)[:, None, None]
        for numbers in (processor.image_mean, processor.image_std)
    )
    return (pixels.float() / 255 - mean) / std


def batches(keys: Sequence[Hashable], most: int) -> Iterator[list[int]]:
    """Indices of up to `most` rows with equal keys, in order."""
    by_key: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        by_key.setdefault(key, []).append(index)
    for indices in by_key.values():
        for start in range(0, len(indices), most):
            yield indices[start : start + most]
