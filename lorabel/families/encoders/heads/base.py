"""The base class of heads. A head computes the answer to one kind of question from the features of the contents.

A head learns one linear layer without bias. The layer starts as zeros and is trained with LoRA like every other
layer, so an adapter holds nothing but LoRA weights. Batches do not go through the layer: its weights are read once
for each adapter, and the head computes with these weights as plain tensors. The head can therefore run in any
thread, and each row of a batch can have its own adapter.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lorabel.contracts import Contract


@dataclass(frozen=True)
class HeadParameters:
    """Everything that a head computes with, besides the question and the contents. All tensors are on one device.

    Args:
        text_features: (texts, dim) float32 of length 1, for the texts that `Head.texts` returns.
        weights: weights of the head's layer, float32 of shape `Head.size`; None if no adapter has trained them.
        scale: the encoder multiplies cosines with this number to get logits.
        bias: the encoder adds this number so that logits above 0 mean "fits"; None if it has not learned one.
        temperature: see `Head.temperature`.
    """

    text_features: Tensor
    weights: Tensor | None
    scale: float
    bias: float | None
    temperature: float = 1.0


class Head(ABC):
    """Computes the answers to one kind of question, for every encoder. Stateless, so thread-safe.

    Attributes:
        layer: the name of the head's linear layer.
    """

    layer: ClassVar[str]

    @abstractmethod
    def size(self, dim: int) -> tuple[int, int]:
        """Return (inputs, outputs) of the layer for features with `dim` dimensions."""

    def texts(self, question: Any) -> tuple[str, ...]:
        """Return texts whose features the answer depends on, besides the contents; label texts, for example."""
        return ()

    def wordings(self, question: Any) -> tuple[str, ...]:
        """Return texts that should make no difference to the answer, such as other wordings of label texts."""
        return ()

    def temperature(self, wording_features: Tensor, scale: float) -> Tensor:
        """Compute how far the answers must be tempered, from how much the wording changes them.

        Args:
            wording_features: (texts, dim) float32 of length 1, for `wordings`.
            scale: see `HeadParameters`.

        Returns:
            a scalar of at least 1, float32.
        """
        return torch.ones(())

    def is_learned(self, question: Any) -> bool:
        """Whether the layer has any effect on the answer to this question."""
        return True

    @abstractmethod
    def output(self, question: Any, contents: Tensor, parameters: HeadParameters) -> Contract:
        """Compute the answer to one question.

        Args:
            contents: (contents, dim) float32 of length 1, on the device of the parameters.
        """

    @abstractmethod
    def losses(
        self, question: Any, contents: Tensor, parameters: HeadParameters, targets: Sequence[Any]
    ) -> Tensor:
        """Compute the loss of each input of a batch in which every input asks the same question.

        Args:
            question: any input of the batch; only its contents differ from the others'.
            contents: (batch, contents, dim) float32 of length 1, on the device of the parameters.

        Returns:
            (batch,) float32, with gradients.
        """


def zero_layer(size: tuple[int, int]) -> nn.Linear:
    """Create a frozen linear layer of zeros, (inputs, outputs), float32, on the CPU."""
    # Built without drawing random numbers, so that seeded results do not depend on how many heads there are.
    with torch.device("meta"):
        layer = nn.Linear(*size, bias=False)
    layer.to_empty(device="cpu")
    nn.init.zeros_(layer.weight)
    return layer.requires_grad_(False)


def read_weights(layer: nn.Module, inputs: int, device: torch.device) -> Tensor:
    """Return the weights of a linear layer together with the LoRA that is on it.

    Args:
        inputs: number of inputs of the layer.

    Returns:
        (inputs, outputs) float32 on `device`, with gradients if LoRA is being trained.
    """
    weights: Tensor = layer(torch.eye(inputs, device=device))
    return weights.float()
