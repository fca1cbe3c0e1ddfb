"""Linear layers whose weights are laid out once as a CPU with bfloat16 arithmetic multiplies them.

oneDNN lays out the weights of `nn.Linear` again in each forward pass. For a single picture that takes as long as
the products themselves. The packed weights replace the others, so memory stays what it was. Outputs are the same
but for the last bit of bfloat16.
"""

import torch
from torch import Tensor, nn


class PackedLinear(nn.Linear):
    """An `nn.Linear` with packed weights, for inference. Made by `pack_linear_layers` only.

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
        output: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.packed, self.bias, "none", [], "")
        return output


@torch.no_grad()
def pack_linear_layers(module: nn.Module) -> None:
    """Pack the weights of all plain linear layers in bfloat16 on a CPU that computes in it, in place.

    Layers with float32 weights stay: torch multiplies them by another library, with results that differ.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    for layer in module.modules():
        if type(layer) is nn.Linear and layer.weight.device.type == "cpu" and layer.weight.dtype == torch.bfloat16:
            packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight, None)
            del layer.weight
            layer.__class__ = PackedLinear
            layer.packed = packed
