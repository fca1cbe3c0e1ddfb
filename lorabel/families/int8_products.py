"""Products of inputs with weights of 8 bits: the only place that calls torch's operators for them.

fbgemm's is the faster one for few rows (docs/decisions/0075-weights-of-8-bits.md). Its weights come from a tensor
type that torch will remove (https://github.com/pytorch/pytorch/issues/184982), so a torch without it multiplies by
oneDNN. Both compute the same sums of integers.
"""

import warnings
from typing import Any

import torch
from torch import Tensor

from lorabel.errors import SettingsError

# Inputs are from 0 to MOST_INPUT, weights from -MOST_WEIGHT to MOST_WEIGHT. A CPU without VNNI adds two products
# in 16 bits with a sign, in which 2 * MOST_INPUT * MOST_WEIGHT just fits. So all CPUs compute the same.
MOST_INPUT, MOST_WEIGHT = 210, 78
# What torch calls the engines whose weights are fbgemm's.
FBGEMM = ("x86", "fbgemm")


def check_cpu() -> None:
    """Raise SettingsError if weights of 8 bits are not multiplied faster than those of float32 here."""
    if not torch.cpu.get_capabilities().get("avx2"):
        raise SettingsError("PRECISION=int8 needs an x86 CPU with AVX2, which this one is not; set PRECISION=auto")


def has_fbgemm() -> bool:
    """Whether this torch still has fbgemm's operators and the tensors that they are made from."""
    has_tensors = hasattr(torch, "_make_per_channel_quantized_tensor")
    return has_tensors and torch.backends.quantized.engine in FBGEMM


def packed(integers: Tensor, scales: Tensor) -> Any:
    """Lay out weights as the operator multiplies them.

    Args:
        integers: (out, in) int8 from -MOST_WEIGHT to MOST_WEIGHT.
        scales: (out,) float32, by which they are multiplied.

    Returns:
        what `product` takes, opaque.
    """
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    if not has_fbgemm():
        return torch.ops.onednn.qlinear_prepack(integers, None), scales, zeros
    # Not `catch_warnings`: it puts the filters of all threads back to what they were.
    warnings.filterwarnings("ignore", "torch.quantize_per_tensor, .* are deprecated", UserWarning)
    quantized = torch._make_per_channel_quantized_tensor(integers, scales.double(), zeros, 0)
    return torch.ops.quantized.linear_prepack(quantized, None)


def product(input: Tensor, weights: Any) -> Tensor:
    """Round (rows, in) float32 from 0 to MOST_INPUT, and multiply with the weights.

    Args:
        weights: what `packed` returned.

    Returns:
        (rows, out) float32.
    """
    output: Tensor
    if isinstance(weights, tuple):
        if not len(input):
            return input.new_empty(0, len(weights[1]))
        integers = input.add(0.5).to(torch.uint8)
        operator = torch.ops.onednn.qlinear_pointwise
        output = operator(integers, 1.0, 0, *weights, None, 1.0, 0, torch.float32, "none", [], "")
    else:
        output = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(input, 1.0, 0, weights)
    return output
