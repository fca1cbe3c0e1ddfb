"""From the features of a question's contents to its answer: a head for each kind of question, each in a file.

What a head learns is one linear layer without a bias that starts as zeros and is learned by LoRA, like every other
layer: an adapter holds nothing else. No batch goes through that layer. Its weights are read out once for each
adapter, and then a head is plain arithmetic, in any thread and for any mixture of adapters.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lorabel.contracts import Contract


@dataclass(frozen=True)
class Basis:
    """What an answer takes besides the question and its contents. All tensors are on one device.

    Args:
        texts: (texts, dim) float32 of length 1, the features of `Head.texts`.
        weights: what the head's layer has learned, `Head.size`, float32; None if nobody has taught it.
        scale: what the encoder multiplies cosines with for logits.
        bias: what it adds so that 0 is the border between fitting and not, if it learned that.
    """

    texts: Tensor
    weights: Tensor | None
    scale: float
    bias: float | None


class Head(ABC):
    """Has no state. `layer` names what it learns, in every encoder."""

    layer: ClassVar[str]

    @abstractmethod
    def size(self, dim: int) -> tuple[int, int]:
        """Inputs and outputs of the layer, for features of `dim` numbers."""

    def texts(self, question: Any) -> tuple[str, ...]:
        """What else has to be read for the answer: the question's own words, not its contents."""
        return ()

    def is_learned(self, question: Any) -> bool:
        """Whether the layer has a part in such a question."""
        return True

    @abstractmethod
    def output(self, question: Any, contents: Tensor, basis: Basis) -> Contract:
        """contents: (contents, dim) float32 of length 1."""

    @abstractmethod
    def losses(self, question: Any, contents: Tensor, basis: Basis, targets: Sequence[Any]) -> Tensor:
        """(batch,) float32, for questions in which the same is asked.

        Args:
            contents: (batch, contents, dim) float32 of length 1.
        """


def fresh_layer(size: tuple[int, int]) -> nn.Linear:
    # Without random numbers, so that what is seeded stays the same.
    with torch.device("meta"):
        layer = nn.Linear(*size, bias=False)
    layer.to_empty(device="cpu")
    nn.init.zeros_(layer.weight)
    return layer.requires_grad_(False)


def weights_of(layer: nn.Module, inputs: int, device: torch.device) -> Tensor:
    """(inputs, outputs): what the layer computes, whatever is on it."""
    weights: Tensor = layer(torch.eye(inputs, device=device))
    return weights.float()
