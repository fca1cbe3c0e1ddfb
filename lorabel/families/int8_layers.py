"""Linear layers with weights of 8 bits, for CPUs that have no arithmetic in bfloat16.

There float32 is what else is served. The products of integers are about twice as fast, and the weights take a
quarter of the memory. Inputs and outputs stay float32, so adapters are added as before.

Each row of a layer's input is rounded by itself, between its own smallest and largest number. So what is computed
of a text depends neither on the texts beside it in the batch nor on how far it is padded.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from lorabel.families.int8_products import MOST_INPUT, MOST_WEIGHT, packed, product
from lorabel.families.shared_weights import layers_by_weight

# Instead of a scale of 0, where all numbers of a row are equal.
SMALLEST = 1e-30


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
        low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
        scale = (high - low).mul_(1 / MOST_INPUT).clamp_min_(SMALLEST)
        output = product((rows - low).mul_(scale.reciprocal()), self.packed)
        output = output.mul_(scale) if self.bias is None else torch.addcmul(self.bias, output, scale, out=output)
        return output.addcmul_(low, self.sums).view(*input.shape[:-1], self.out_features)


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
