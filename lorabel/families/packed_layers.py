"""Layers whose weights are laid out once as a CPU with bfloat16 arithmetic multiplies them.

oneDNN lays out the weights of `nn.Linear` again in each forward pass. For a single picture that takes as long as
the products themselves. The packed weights replace the others, so memory stays what it was. Outputs are the same
but for the last bit of bfloat16. A convolution that cuts a picture into patches is a product, too, and takes a
fifth of the time as such.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lorabel.families.shared_weights import layers_by_weight


class PackedLinear(nn.Linear):
    """An `nn.Linear` with packed weights, for inference. Made by `pack_layers` only.

    Attributes:
        packed: the weights, opaque but for their shape, dtype and device.
    """

    packed: Tensor

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weights, unpacked each time: for models that read them past `forward`."""
        return self.packed.to_dense()

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) bfloat16 -> (..., out) bfloat16."""
        return _product(input, self.packed, self.bias)


class PackedPatches(nn.Conv2d):
    """An `nn.Conv2d` whose kernels do not overlap, with packed weights, for inference. Made by `pack_layers` only.

    Attributes:
        packed: the weights of a linear layer, opaque but for their shape, dtype and device.
    """

    packed: Tensor

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weights, unpacked each time."""
        return self.packed.to_dense().view(self.out_channels, self.in_channels, *self.kernel_size)

    def forward(self, input: Tensor) -> Tensor:
        """(pictures, in, height, width) bfloat16 -> (pictures, out, rows, columns) bfloat16."""
        height, width = self.kernel_size
        rows, columns = input.shape[2] // height, input.shape[3] // width
        whole = input[:, :, : rows * height, : columns * width]
        patches = whole.reshape(*whole.shape[:2], rows, height, columns, width).permute(0, 2, 4, 1, 3, 5)
        output = _product(patches.flatten(3).flatten(1, 2), self.packed, self.bias)
        return output.transpose(1, 2).view(len(input), self.out_channels, rows, columns)


@torch.no_grad()
def pack_layers(module: nn.Module) -> None:
    """Pack the weights of plain linear layers and patch embeddings, in place.

    Only layers in bfloat16 on a CPU that computes in it: torch multiplies float32 by another library, with results
    that differ.
    """
    # A torch without oneDNN lacks the operators.
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_onednn or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    linear = [layer for layer in module.modules() if type(layer) is nn.Linear]
    patches = [layer for layer in module.modules() if type(layer) is nn.Conv2d and _cuts_into_patches(layer)]
    _pack(linear, PackedLinear)
    _pack(patches, PackedPatches)


def _pack(plain: Sequence[nn.Linear | nn.Conv2d], kind: type[PackedLinear | PackedPatches]) -> None:
    for layers in layers_by_weight(plain):
        weight = layers[0].weight
        if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
            continue
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.flatten(1), None)
        for layer in layers:
            del layer.weight
            layer.__class__, layer.packed = kind, packed


def _cuts_into_patches(layer: nn.Conv2d) -> bool:
    is_plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding == (0, 0)
    return is_plain and layer.kernel_size == layer.stride


def _product(input: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    output: Tensor = torch.ops.mkldnn._linear_pointwise(input, packed, bias, "none", [], "")
    return output
