"""Linear layers with weights of 8 bits, for CPUs that have no arithmetic in bfloat16.

There float32 is what else is served. The products of integers are nearly twice as fast, and the weights take a
quarter of the memory. Inputs and outputs stay float32, so adapters are added as before.

Each row of a layer's input has a scale of its own: what is computed of a text does not depend on the texts beside
it in the batch, nor on how far it is padded. Rows become numbers from -127 to 127, weights from -64 to 64. A CPU
without VNNI adds two products in 16 bits, and with larger weights the sum would not fit. So every CPU computes the
same. docs/decisions/0075 has figures, and says what becomes of this when torch removes the operators.
"""

import warnings
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from lorabel.errors import SettingsError
from lorabel.families.shared_weights import layers_by_weight

MOST_INPUT, MOST_WEIGHT = 127, 64
# The operator takes numbers from 0 to 255, in which this is zero.
ZERO = 128
# The scale of rows that are all zeros.
SMALLEST = 1e-30
# Engines of torch's quantized operators that have them for all the CPUs of x86.
ENGINES = ("x86", "fbgemm")


class Int8Linear(nn.Linear):
    """An `nn.Linear` with weights of 8 bits, for inference on a CPU. Made by `quantize_layers` only.

    Attributes:
        packed: the weights with a scale for each output, opaque.
        int8_original_dtype: open_clip reads it where it would read the dtype of the weights.
    """

    packed: Any
    int8_original_dtype = torch.float32

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weights in float32, unpacked each time: for models that read them past `forward`."""
        return _unpacked(self.packed, self.in_features)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) float32 -> (..., out) float32."""
        scales = input.abs().amax(-1, keepdim=True).mul_(1 / MOST_INPUT).clamp_min_(SMALLEST)
        output = _product(input / scales, self.packed)
        if self.bias is None:
            return output.mul_(scales)
        return torch.addcmul(self.bias, output, scales, out=output)


def check_cpu() -> None:
    """Raise SettingsError if this torch cannot multiply weights of 8 bits on this CPU."""
    engine, has_avx2 = torch.backends.quantized.engine, torch.cpu.get_capabilities().get("avx2")
    if engine not in ENGINES or not has_avx2:
        raise SettingsError(
            f"PRECISION=int8 needs an x86 CPU with AVX2, and a torch that multiplies integers with "
            f"{' or '.join(ENGINES)}; torch {torch.__version__} says {engine!r} here; set PRECISION=auto"
        )


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
    _silence_torch()
    plain = [layer for layer in map(module.get_submodule, sorted(names)) if type(layer) is nn.Linear]
    for layers in layers_by_weight(plain):
        packed = _packed(layers[0].weight)
        for layer in layers:
            del layer.weight
            layer.__class__, layer.packed = Int8Linear, packed


def _silence_torch() -> None:
    """Not by `catch_warnings`, which changes the filters of all threads back when another may be changing them."""
    warnings.filterwarnings("ignore", "torch.quantize_per_tensor, .* are deprecated", UserWarning)


def _packed(weight: Tensor) -> Any:
    """Quantise (out, in) float32, each output with a scale of its own, and lay it out for the operator."""
    scales = weight.abs().amax(1).clamp_min(SMALLEST) / MOST_WEIGHT
    integers = (weight / scales[:, None]).round().to(torch.int8)
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    quantized = torch._make_per_channel_quantized_tensor(integers, scales.double(), zeros, 0)
    return torch.ops.quantized.linear_prepack(quantized, None)


def _product(input: Tensor, packed: Any) -> Tensor:
    """(..., in) float32 from -MOST_INPUT to MOST_INPUT, rounded, times the weights: (..., out) float32."""
    operator = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
    output: Tensor = operator(input, 1.0, ZERO, packed)
    return output


def _unpacked(packed: Any, inputs: int) -> Tensor:
    """(out, in) float32: the products with unit vectors are the weights."""
    return _product(torch.eye(inputs), packed).T
