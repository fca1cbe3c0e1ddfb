"""Packed layers against the plain ones that they replace."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lorabel.database.adapter_folders import AdapterFolders
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.packed_layers import PackedLinear, PackedPatches, pack_layers
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from tests.model_server.test_adapters import save_random_adapter

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="the CPU has no arithmetic in bfloat16",
)


@pytest.fixture
def plain() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(96, 40).to(torch.bfloat16).requires_grad_(False)


def packed(layer: nn.Module) -> nn.Module:
    copy = deepcopy(layer)
    pack_layers(copy)
    return copy


def test_nothing_is_packed_by_a_torch_without_onednn(plain: nn.Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert type(packed(plain)) is nn.Linear


def assert_same(output: Tensor, expected: Tensor) -> None:
    """Equal but for the last bit of bfloat16."""
    torch.testing.assert_close(output, expected, rtol=2**-7, atol=2**-9)


@pytest.mark.parametrize("shape", [(96,), (1, 96), (7, 96), (3, 50, 96), (0, 50, 96), (2, 3, 5, 96)])
def test_a_packed_layer_computes_the_same(plain: nn.Linear, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape).to(torch.bfloat16)
    with torch.inference_mode():
        assert_same(packed(plain)(x), plain(x))


def test_inputs_that_are_no_contiguous_memory_are_multiplied_as_well(plain: nn.Linear) -> None:
    x = torch.randn(50, 3, 192).to(torch.bfloat16).transpose(0, 1)[..., ::2]
    assert_same(packed(plain)(x), plain(x))


def test_a_layer_without_bias_and_several_threads_compute_the_same() -> None:
    plain = nn.Linear(64, 64, bias=False).to(torch.bfloat16).requires_grad_(False)
    layer, xs = packed(plain), [torch.randn(rows, 64).to(torch.bfloat16) for rows in range(1, 33)]
    with ThreadPoolExecutor(4) as threads:
        for output, x in zip(threads.map(layer, xs), xs, strict=True):
            assert_same(output, plain(x))


@pytest.mark.parametrize(("size", "has_bias"), [((32, 32), True), ((37, 49), False)])
def test_packed_patches_are_those_of_the_convolution(size: tuple[int, int], has_bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 40, (8, 16), (8, 16), bias=has_bias).to(torch.bfloat16).requires_grad_(False)
    layer, pictures = packed(plain), torch.randn(2, 3, *size).to(torch.bfloat16)
    assert isinstance(layer, PackedPatches)
    assert_same(layer(pictures), plain(pictures))
    assert torch.equal(layer.weight, plain.weight)


@pytest.mark.parametrize("other", [{"stride": 4}, {"padding": 1}, {"dilation": 2}, {"groups": 2}])
def test_convolutions_that_are_not_cut_into_patches_stay(other: dict[str, int]) -> None:
    plain = nn.Conv2d(4, 8, 8, **{"stride": 8, **other}).to(torch.bfloat16)  # type: ignore[arg-type]
    assert type(packed(plain)) is nn.Conv2d


def test_the_weights_are_there_once_and_can_be_read(plain: nn.Linear) -> None:
    layer = packed(plain)
    assert isinstance(layer, PackedLinear) and [*dict(layer.named_parameters())] == ["bias"]
    assert torch.equal(layer.weight, plain.weight)


def test_layers_in_float32_and_of_other_classes_stay() -> None:
    module = nn.ModuleList([nn.Linear(8, 8), nn.Bilinear(8, 8, 8).to(torch.bfloat16)])
    pack_layers(module)
    assert [type(layer) for layer in module] == [nn.Linear, nn.Bilinear]


@pytest.mark.slow
def test_rows_of_several_adapters_get_the_features_that_they_get_without_packing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, folders = DualEncoder.tiny(tmp_path / "base"), AdapterFolders(tmp_path / "adapters")
    families = [
        DualEncoder.load(source, torch.device("cpu"), torch.bfloat16, Settings()) for _ in ("plain", "packed")
    ]
    names = [save_random_adapter(families[0], folders, f"p1.v{rank}", rank) for rank in (2, 4)]
    pack_layers(families[1].module)
    pixels = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    for adapters in ([None] * 6, [names[0]] * 6, [names[0], None, names[1]] * 2):
        features = []
        for family in families:
            with torch.inference_mode(), AdapterBank(family, folders, 10**9).use(adapters):
                features.append(family.module.encode_image(pixels.to(torch.bfloat16) / 255).float())  # type: ignore[operator]
        assert functional.cosine_similarity(*features).min() > 0.999
