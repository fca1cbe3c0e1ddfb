"""Linear layers with weights of 8 bits, for CPUs that have no arithmetic in bfloat16.

There float32 is what else is served. The products of integers are about twice as fast, and the weights take a
quarter of the memory. Inputs and outputs stay float32, so adapters are added as before.

Each row of a layer's input is rounded by itself, between its own smallest and largest number. So what is computed
of a text depends neither on the texts beside it in the batch nor on how far it is padded.
"""

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lorabel.families.int8_products import MOST_INPUT, MOST_WEIGHT, packed, product
from lorabel.families.shared_weights import layers_by_weight

# Instead of a scale of 0, where all numbers of a row are equal.
SMALLEST = 1e-30
# Of so many numbers torch computes on one thread. For more it wakes a thread each time, which takes longer than to
# compute a few times as many.
MOST_ALONE, FEW_NUMBERS = 2**15 - 1, 2**18


class Int8Linear(nn.Linear):
    """An `nn.Linear` with weights of 8 bits, for inference on a CPU. Made by `quantize_layers` only.

    Attributes:
        packed: the weights with a scale for each output, opaque.
        sums: (out,) float32: the sum of the weights of each output.
        int8_original_dtype: open_clip reads it where it would read the dtype of the weights.
    """

    packed: Any
    sums: Tensor
    int8_original_dtype = torch.float32

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weights in float32, unpacked each time: for models that read them past `forward`."""
        return product(torch.eye(self.in_features), self.packed).T

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) float32 -> (..., out) float32.

        With x = low + scale * n, where n is rounded, W x = scale * (W n) + low * sums.
        """
        rows = input.reshape(-1, self.in_features)
        steps, low, scale = torch.empty_like(rows), rows.new_empty(len(rows), 1), rows.new_empty(len(rows), 1)
        for some in _parts(*rows.shape):
            torch.amin(rows[some], 1, keepdim=True, out=low[some])
            torch.amax(rows[some], 1, keepdim=True, out=scale[some])
            scale[some].sub_(low[some]).mul_(1 / MOST_INPUT).clamp_min_(SMALLEST)
            torch.sub(rows[some], low[some], out=steps[some]).mul_(scale[some].reciprocal())
        output = product(steps, self.packed)
        for some in _parts(*output.shape):
            part = output[some]
            if self.bias is None:
                part.mul_(scale[some])
            else:
                torch.addcmul(self.bias, part, scale[some], out=part)
            part.addcmul_(low[some], self.sums)
        return output.view(*input.shape[:-1], self.out_features)


def _parts(rows: int, width: int) -> Iterable[slice]:
    """The rows of a tensor in parts that torch does not share among threads, unless the tensor is large."""
    if torch.get_num_threads() == 1 or rows * width > FEW_NUMBERS:
        return (slice(None),)
    step = max(1, MOST_ALONE // width)
    return (slice(start, start + step) for start in range(0, rows, step))


def has_int8_weights(module: nn.Module) -> bool:
    """Whether `quantize_layers` has changed a layer of a module."""
    return any(isinstance(layer, Int8Linear) for layer in module.modules())


@torch.no_grad()
def quantize_layers(module: nn.Module, names: Collection[str]) -> None:
    """Give linear layers of a model in float32 on the CPU weights of 8 bits, in place of their own.

    Layers that share weights go on sharing them.

    Args:
        names: of the layers. Those of other classes than `nn.Linear` itself stay as they are.
    """
    plain = [layer for layer in map(module.get_submodule, sorted(names)) if type(layer) is nn.Linear]
    for layers in layers_by_weight(plain):
        weight = layers[0].weight
        scales = weight.abs().amax(1).clamp_min(SMALLEST) / MOST_WEIGHT
        integers = (weight / scales[:, None]).round().to(torch.int8)
        weights, sums = packed(integers, scales), integers.sum(1) * scales
        for layer in layers:
            del layer.weight
            layer.__class__, layer.packed, layer.sums = Int8Linear, weights, sums
