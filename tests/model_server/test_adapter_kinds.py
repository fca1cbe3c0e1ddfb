"""Kinds of adapters in the bank: each row of a mixed batch equals what PEFT computes with its adapter alone."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorabel.adapter_kinds import ADALORA, KINDS
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import UnreadableError
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.int8_layers import quantize_layers
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from workers.lora import only
from workers.peft_kinds import new_config, quiet_about_ranks

pytestmark = pytest.mark.slow

TINY = 1e-4


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return DualEncoder.tiny(tmp_path_factory.mktemp("base"))


def load(source: str, dtype: torch.dtype = torch.float32) -> DualEncoder:
    return DualEncoder.load(source, torch.device("cpu"), dtype, Settings())


@pytest.fixture(scope="module")
def adapter_folders(tmp_path_factory: pytest.TempPathFactory, source: str) -> AdapterFolders:
    """An adapter of each kind, `<version>/<kind>`, with random weights in everything that is trained."""
    folders = AdapterFolders(tmp_path_factory.mktemp("adapters"))
    for version, kind in enumerate(KINDS, 1):
        family = load(source)
        config = new_config(kind, 4, only(family.lora_layers()), 30)
        write(folders, family, f"p1.v{version}", kind, config)
    return folders


def write(
    folders: AdapterFolders,
    family: DualEncoder,
    version: str,
    tag: str,
    config: PeftConfig,
    rank_pattern: dict[str, list[bool]] | None = None,
) -> str:
    model = get_peft_model(family.module, config)
    torch.manual_seed(len(tag))
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            # A magnitude, or a factor, is near to what it was.
            spread = 0.3 * weight.detach().abs().mean() if weight.ndim == 1 or "ia3" in name else 0.2
            weight.data += spread * torch.randn_like(weight)
    if rank_pattern is not None:
        model.peft_config["default"].rank_pattern = rank_pattern
    folders.write(version, lambda folder: model.save_pretrained(folder / tag))
    return f"{version}/{tag}"


PIXELS = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
NAMES = [f"p1.v{version}/{kind}" for version, kind in enumerate(KINDS, 1)]
PLAIN, STABILIZED, DECOMPOSED, ALLOCATED, SCALED = NAMES


@pytest.fixture(scope="module")
def alone(source: str, adapter_folders: AdapterFolders) -> dict[str | None, Tensor]:
    """What PEFT computes of PIXELS with each adapter alone, and what the base model computes."""
    folders: dict[str | None, Path | None] = {None: None, **{name: adapter_folders.path(name) for name in NAMES}}
    return {name: features(load(source), folder) for name, folder in folders.items()}


@torch.inference_mode()
def features(family: DualEncoder, folder: Path | None = None) -> Tensor:
    module = family.module if folder is None else PeftModel.from_pretrained(family.module, folder)
    of_pixels: Tensor = module.encode_image(PIXELS)  # type: ignore[operator]
    return of_pixels


@torch.inference_mode()
def mixed_features(family: DualEncoder, bank: AdapterBank, rows: Sequence[str | None]) -> Tensor:
    with bank.use(rows):
        mixed: Tensor = family.module.encode_image(PIXELS[: len(rows)].to(family.dtype))  # type: ignore[operator]
    return mixed


def check(mixed: Tensor, rows: Sequence[str | None], alone: dict[str | None, Tensor]) -> None:
    expected = torch.stack([alone[name][row] for row, name in enumerate(rows)])
    torch.testing.assert_close(mixed, expected, rtol=TINY, atol=TINY)


@pytest.fixture(scope="module")
def family(source: str) -> DualEncoder:
    return load(source)


@pytest.fixture
def bank(family: DualEncoder, adapter_folders: AdapterFolders) -> AdapterBank:
    return AdapterBank(family, adapter_folders, memory_bytes=10**9)


def test_each_row_of_a_batch_of_all_kinds_equals_peft_alone(
    family: DualEncoder, bank: AdapterBank, alone: dict[str | None, Tensor]
) -> None:
    rows = [DECOMPOSED, None, SCALED, PLAIN, ALLOCATED, STABILIZED, DECOMPOSED, SCALED]
    check(mixed_features(family, bank, rows), rows, alone)
    assert torch.equal(features(family), alone[None]), "the base model is as before"
    for name in NAMES:
        assert not torch.allclose(alone[name], alone[None], atol=1e-2), "each adapter must change something"


def test_a_batch_of_one_kind_equals_peft_alone(
    family: DualEncoder, bank: AdapterBank, alone: dict[str | None, Tensor]
) -> None:
    for name in NAMES:
        check(mixed_features(family, bank, [name, name]), [name, name], alone)


def test_kinds_stay_right_while_others_come_and_go(
    family: DualEncoder, adapter_folders: AdapterFolders, alone: dict[str | None, Tensor]
) -> None:
    """Each loading makes other stacks, with other layers, ranks and scales."""
    bank = AdapterBank(family, adapter_folders, memory_bytes=1)
    for rows in (
        [SCALED, None],
        [SCALED, PLAIN],
        [DECOMPOSED, SCALED],
        [PLAIN, PLAIN],
        [ALLOCATED, DECOMPOSED],
        [SCALED, SCALED],
    ):
        check(mixed_features(family, bank, rows), rows, alone)


def test_scales_take_memory_only_where_an_adapter_has_them(family: DualEncoder, bank: AdapterBank) -> None:
    layers = [layer for layer in family.module.modules() if isinstance(layer, torch.nn.Linear)]
    slots, float_bytes, rank = 8, 4, 4
    plain = slots * sum((layer.in_features + layer.out_features) * rank * float_bytes for layer in layers)
    scales = slots * sum(2 * layer.out_features * float_bytes for layer in layers)
    bank.load(PLAIN)
    assert bank.nbytes == plain
    bank.load(SCALED)
    assert bank.nbytes == plain + scales


def test_an_adapter_that_only_scales_is_effective_on_its_layers(family: DualEncoder, bank: AdapterBank) -> None:
    assert bank.effective_adapter(SCALED, family.lora_layers()[:1]) == SCALED
    assert bank.effective_adapter(SCALED, []) is None


def test_ranks_that_adalora_gave_up_leave_the_others_right(
    source: str, family: DualEncoder, tmp_path: Path
) -> None:
    """PEFT's file has only the ranks that are left, of some layers none."""
    folders, layers = AdapterFolders(tmp_path), family.lora_layers()
    config = new_config(ADALORA, 4, only(layers), 30)
    kept = {
        f"{layer}.lora_E": [(rank + index) % 3 == 0 and index != 1 for rank in range(config.init_r)]
        for index, layer in enumerate(layers)
    }
    with quiet_about_ranks():
        name = write(folders, load(source), "p1.v1", "pruned", config, kept)
        expected = features(load(source), folders.path(name))
    file = load_file(folders.path(name) / "adapter_model.safetensors")
    assert {len(weight) for key, weight in file.items() if key.endswith("lora_A")} == {0, 2}
    rows = [name, None, name]
    mixed = mixed_features(family, AdapterBank(family, folders, 10**9), rows)
    check(mixed, rows, {name: expected, None: features(family)})


def test_scales_are_right_in_bfloat16(
    source: str, adapter_folders: AdapterFolders, alone: dict[str | None, Tensor]
) -> None:
    family = load(source, torch.bfloat16)
    bank = AdapterBank(family, adapter_folders, memory_bytes=10**9)
    rows = [DECOMPOSED, SCALED, None, PLAIN]
    for row, features in enumerate(mixed_features(family, bank, rows).float()):
        expected = alone[rows[row]][row]
        torch.testing.assert_close(features, expected, rtol=0, atol=0.05 * float(expected.abs().max()))


def in_8_bits(family: DualEncoder) -> DualEncoder:
    quantize_layers(family.module, family.int8_layers())
    return family


def test_adapters_of_all_kinds_are_right_on_weights_of_8_bits(
    source: str, adapter_folders: AdapterFolders
) -> None:
    """PEFT adds an adapter to whatever its base layer computes, and takes the norms of DoRA from its weights."""
    served = in_8_bits(load(source))
    base = features(served)
    bank = AdapterBank(served, adapter_folders, memory_bytes=10**9)
    for row, (name, mixed) in enumerate(zip(NAMES, mixed_features(served, bank, NAMES), strict=True)):
        model = PeftModel.from_pretrained(in_8_bits(load(source)).module, adapter_folders.path(name))
        with torch.inference_mode():
            alone = model.encode_image(PIXELS[: len(NAMES)])[row]
        # What differs in the last bit may be rounded to the next integer in the layers behind.
        assert float((mixed - alone).norm()) <= 0.005 * float(alone.norm())
        assert float((alone - base[row]).norm()) > 0.1 * float(base[row].norm())


def test_what_no_batch_can_mix_is_refused_with_its_reason(source: str, tmp_path: Path) -> None:
    folders, family = AdapterFolders(tmp_path), load(source)
    layers = family.lora_layers()
    unmixed = {
        "feedforward_modules": IA3Config(target_modules=only(layers), feedforward_modules=only(layers[:1])),
        "alpha_pattern": LoraConfig(r=2, target_modules=only(layers), alpha_pattern={layers[0]: 3}),
    }
    for version, (reason, config) in enumerate(unmixed.items(), 1):
        name = write(folders, load(source), f"p1.v{version}", "label", config)
        with pytest.raises(UnreadableError, match=rf"p1.v{version}/label is .* with \['{reason}'\]"):
            AdapterBank(family, folders, 10**9).load(name)


def test_an_adapter_of_another_size_is_refused_whatever_its_kind(
    family: DualEncoder, tmp_path: Path, adapter_folders: AdapterFolders
) -> None:
    folders = AdapterFolders(tmp_path)
    bank = AdapterBank(family, folders, 10**9)
    for version, name in enumerate(NAMES, 1):
        original = adapter_folders.path(name)
        weights = {
            key: torch.cat([weight, weight]) if key.endswith(("lora_B", "lora_B.weight", "ia3_l")) else weight
            for key, weight in load_file(original / "adapter_model.safetensors").items()
        }

        def copy(folder: Path, original: Path = original, weights: dict[str, Tensor] = weights) -> None:
            (folder / "label").mkdir(parents=True)
            save_file(weights, folder / "label" / "adapter_model.safetensors")
            config = (original / "adapter_config.json").read_text()
            (folder / "label" / "adapter_config.json").write_text(config)

        folders.write(f"p7.v{version}", copy)
        with pytest.raises(UnreadableError, match=rf"p7\.v{version}/label.*does not fit.*MODEL_DUAL_ENCODER"):
            bank.load(f"p7.v{version}/label")


def test_dora_is_refused_where_weights_are_quantized_and_lora_is_not(
    source: str, adapter_folders: AdapterFolders
) -> None:
    family = load(source)
    name = family.lora_layers()[0]
    layer = family.module.get_submodule(name)
    layer.weight = torch.nn.Parameter(torch.zeros_like(layer.weight, dtype=torch.int8), requires_grad=False)
    bank = AdapterBank(family, adapter_folders, memory_bytes=10**9)
    bank.load(PLAIN)
    with pytest.raises(UnreadableError, match=r"norms of weights, and those of layer .* are quantized; serve the"):
        bank.load(DECOMPOSED)
