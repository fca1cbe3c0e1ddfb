"""Layers with weights of 8 bits against sums that the test computes itself, and against plain layers."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from lorabel.errors import SettingsError
from lorabel.families import int8_products
from lorabel.families.int8_layers import Int8Linear, has_int8_weights, quantize_layers
from lorabel.families.int8_products import MOST_INPUT, MOST_WEIGHT, check_cpu


@pytest.fixture(params=["fbgemm", "onednn"], autouse=True)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test with what this torch multiplies by, and with what one without quantized tensors does."""
    assert int8_products.has_fbgemm()
    if request.param == "onednn":
        monkeypatch.setattr(int8_products, "has_fbgemm", lambda: False)


@pytest.fixture
def plain() -> nn.Linear:
    return linear(96, 40)


def linear(inputs: int, outputs: int, has_bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=has_bias).requires_grad_(False)


def quantized(layer: nn.Linear) -> Int8Linear:
    module = nn.ModuleDict({"layer": deepcopy(layer)})
    quantize_layers(module, ["layer"])
    copy = module["layer"]
    assert isinstance(copy, Int8Linear)
    return copy


def expected(layer: nn.Linear, x: Tensor) -> Tensor:
    """(rows, out): sums of products of integers, exact in float64, with the scales of row and output."""
    weight, rows = layer.weight.double(), x.double()
    weight_scales = weight.abs().amax(1, keepdim=True) / MOST_WEIGHT
    low = rows.amin(1, keepdim=True)
    input_scales = (rows.amax(1, keepdim=True) - low) / MOST_INPUT
    weights, inputs = (weight / weight_scales).round(), ((rows - low) / input_scales).round()
    bias = 0 if layer.bias is None else layer.bias.double()
    return ((inputs * input_scales + low) @ (weights * weight_scales).T + bias).float()


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_layer_sums_products_of_integers_with_a_scale_for_each_row_and_output(has_bias: bool) -> None:
    plain, x = linear(96, 40, has_bias), torch.randn(300, 96) * torch.logspace(-3, 3, 300)[:, None]
    output, truth = quantized(plain)(x), expected(plain, x)
    # An input that lies between two integers may be rounded the other way.
    is_near = (output - truth).abs() <= 1e-4 * truth.abs().amax(1, keepdim=True)
    assert is_near.float().mean() > 0.99
    torch.testing.assert_close(output, truth, rtol=0.05, atol=float(truth.abs().max()) * 0.02)


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_of_the_largest_integers_are_exact(sign: int) -> None:
    """A CPU without VNNI adds two products in 16 bits: with larger weights or inputs this sum does not fit."""
    plain = linear(512, 16, has_bias=False)
    plain.weight.copy_(torch.full_like(plain.weight, sign * 0.5))
    x = torch.full((3, 512), 2.0)
    x[:, -1] = 0  # the smallest of a row: all others are the largest
    torch.testing.assert_close(quantized(plain)(x), torch.full((3, 16), sign * 511.0), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(50, 768, 800), (2, 40_000, 8), (400, 768, 8), (0, 768, 8)]
)
def test_an_input_in_parts_gives_what_the_whole_gives(rows: int, inputs: int, outputs: int) -> None:
    """Several threads round inputs of a few pictures in parts; one thread, and large inputs, as a whole."""
    x, layer = torch.randn(rows, inputs), quantized(linear(inputs, outputs))
    before = torch.get_num_threads()
    with torch.inference_mode():
        try:
            torch.set_num_threads(1)
            whole = layer(x)
            torch.set_num_threads(2)
            assert torch.equal(layer(x), whole)
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(96,), (1, 96), (7, 96), (3, 50, 96), (0, 50, 96), (2, 3, 5, 96)])
def test_outputs_are_near_those_of_the_plain_layer(plain: nn.Linear, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    with torch.inference_mode():
        output, truth = quantized(plain)(x), plain(x)
    assert output.shape == truth.shape
    assert float((output - truth).norm()) <= 0.02 * float(truth.norm())


def test_a_row_is_the_same_bit_by_bit_whatever_is_beside_it(plain: nn.Linear) -> None:
    layer, x = quantized(plain), torch.randn(40, 50, 96)
    alone = [layer(task[None])[0] for task in x]
    x_with_others = torch.cat([x, 1e4 * torch.randn(3, 50, 96)])
    assert all(torch.equal(*pair) for pair in zip(layer(x_with_others), alone, strict=False))
    assert torch.equal(layer(x[7, 3]), alone[7][3])


def test_rows_of_zeros_give_the_bias_and_inputs_need_not_be_contiguous(plain: nn.Linear) -> None:
    layer, x = quantized(plain), torch.randn(50, 3, 192)
    assert torch.equal(layer(torch.zeros(2, 96)), plain.bias.expand(2, 40))
    transposed = x.transpose(0, 1)[..., ::2]
    assert torch.equal(layer(transposed), layer(transposed.contiguous()))


def test_several_threads_compute_the_same(plain: nn.Linear) -> None:
    layer, xs = quantized(plain), [torch.randn(rows, 96) for rows in range(1, 33)]
    with ThreadPoolExecutor(4) as threads:
        for output, x in zip(threads.map(layer, xs), xs, strict=True):
            assert torch.equal(output, layer(x))


def test_an_input_is_left_as_it_was(plain: nn.Linear) -> None:
    x = torch.randn(5, 96)
    before = x.clone()
    quantized(plain)(x)
    assert torch.equal(x, before)


def test_the_weights_are_there_once_and_can_be_read(plain: nn.Linear) -> None:
    layer = quantized(plain)
    assert [*dict(layer.named_parameters())] == ["bias"] and not [*layer.buffers()]
    half_a_step = plain.weight.abs().amax(1, keepdim=True) / MOST_WEIGHT / 2
    assert bool(((layer.weight - plain.weight).abs() <= 1.001 * half_a_step).all())


def test_layers_that_share_weights_go_on_sharing_them() -> None:
    module = nn.ModuleList([linear(8, 8), linear(8, 8)])
    module[1].weight = module[0].weight
    quantize_layers(module, ["0", "1"])
    assert module[0].packed is module[1].packed


def test_only_plain_layers_that_are_named_change() -> None:
    class Special(nn.Linear):
        """A layer that computes something else than its weights say."""

    module = nn.ModuleDict({"named": linear(8, 8), "other": linear(8, 8), "special": Special(8, 8)})
    assert not has_int8_weights(module)
    quantize_layers(module, ["named", "special"])
    assert [type(layer) for layer in module.values()] == [Int8Linear, nn.Linear, Special]
    assert has_int8_weights(module)


def test_a_cpu_without_the_operators_is_refused_with_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    check_cpu()
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.raises(SettingsError, match=r"needs an x86 CPU with AVX2, .* set PRECISION=auto"):
        check_cpu()
