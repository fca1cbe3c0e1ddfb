"""Ways to compute linear layers with weights of 8 bits on a CPU, for `benchmarks.quantised`.

Weights have a scale for each output. What they are multiplied with is quantised in each forward pass:

- `dynamic`: torch's `torch.ao.nn.quantized.dynamic.Linear`; a scale for all rows, float32 in and out;
- `pointwise`: oneDNN's kernel for AMX and VNNI, which torch's compiler uses; a scale for all rows, bfloat16 in and
  out. `torch.ops.onednn.qlinear_pointwise` is not documented;
- `torchao`: `Int8DynamicActivationInt8WeightConfig` without the compiler; a scale for each token, bfloat16 in and
  out. Needs the package torchao.
"""

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized.dynamic import Linear as DynamicLinear
from torch.ao.quantization import per_channel_dynamic_qconfig

LARGEST = 127


class PointwiseLinear(nn.Module):
    """A linear layer that quantises its input with one scale for all rows."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.float()
        self.scales = weight.abs().amax(1).clamp(min=1e-12) / LARGEST
        quantised = (weight / self.scales[:, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(quantised, None)
        self.zeros = torch.zeros(layer.out_features, dtype=torch.int64)
        self.bias = None if layer.bias is None else layer.bias.float()

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) bfloat16; returns (..., out) bfloat16."""
        smallest, largest = x.aminmax()
        scale = max(-float(smallest), float(largest), 1e-12) / LARGEST
        quantised = (x * (1 / scale)).round_().to(torch.int8)
        output: Tensor = torch.ops.onednn.qlinear_pointwise(
            quantised, scale, 0, self.packed, self.scales, self.zeros, self.bias, 1.0, 0, x.dtype, "none", [], ""
        )
        return output


def use_dynamic(module: nn.Module, names: Collection[str]) -> None:
    """Replace the linear layers with these names by torch's dynamically quantised ones."""
    torch.backends.quantized.engine = "onednn"

    def quantised(layer: nn.Linear) -> nn.Module:
        layer.qconfig = per_channel_dynamic_qconfig  # type: ignore[assignment]
        return DynamicLinear.from_float(layer)  # type: ignore[no-untyped-call,no-any-return]

    _replace(module, names, quantised)


def use_pointwise(module: nn.Module, names: Collection[str]) -> None:
    """Replace the linear layers with these names by `PointwiseLinear`."""
    _replace(module, names, PointwiseLinear)


def use_torchao(module: nn.Module, names: Collection[str]) -> None:
    """Quantise the weights of the linear layers with these names with torchao."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(module, Int8DynamicActivationInt8WeightConfig(), lambda _, name: name in names)


def _replace(module: nn.Module, names: Collection[str], quantised: Callable[[nn.Linear], nn.Module]) -> None:
    for name in names:
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        replacement = quantised(layer)
        replacement.int8_original_dtype = layer.weight.dtype  # type: ignore[assignment]  # open_clip asks for it
        module.set_submodule(name, replacement)
