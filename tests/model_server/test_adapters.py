"""The adapter bank against PEFT: each row of a mixed batch equals what PEFT computes with that adapter alone."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torchvision.transforms.functional import to_pil_image

from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import NotFoundError, UnreadableError
from lorabel.families.base import Family
from lorabel.families.cache import FeatureCache
from lorabel.families.dual_encoder import DualEncoder
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from model_server.low_rank import add_low_rank
from tests.questions import about_picture
from workers.lora import only

pytestmark = pytest.mark.slow


@pytest.fixture
def source(tmp_path: Path) -> str:
    torch.manual_seed(0)
    return DualEncoder.tiny(tmp_path / "base")


def load(source: str) -> DualEncoder:
    return DualEncoder.load(source, torch.device("cpu"), torch.float32, Settings())


def save_random_adapter(
    family: Family, adapter_folders: AdapterFolders, version: str, rank: int, layers: list[str] | None = None
) -> str:
    """Write an adapter with random A and B (PEFT sets B of a new adapter to zero). Returns the adapter's name."""
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=only(layers or family.lora_layers()))
    model = get_peft_model(family.module, config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    adapter_folders.write(version, lambda folder: model.save_pretrained(folder / "label"))
    model.unload()
    return f"{version}/label"


def png(pixels: torch.Tensor) -> bytes:
    file = io.BytesIO()
    to_pil_image(pixels).save(file, "PNG")
    return file.getvalue()


def linear_layers(family: Family) -> list[torch.nn.Linear]:
    return [layer for layer in family.module.modules() if isinstance(layer, torch.nn.Linear)]


@torch.inference_mode()
def peft_features(source: str, folder: Path | None, pixels: torch.Tensor) -> torch.Tensor:
    module = load(source).module
    model = module if folder is None else PeftModel.from_pretrained(module, folder)
    return model.encode_image(pixels)


def test_each_row_of_a_mixed_batch_equals_peft_alone_for_ranks_4_8_and_16(source: str, tmp_path: Path) -> None:
    adapter_folders = AdapterFolders(tmp_path / "adapters")
    names = [
        save_random_adapter(load(source), adapter_folders, f"p1.v{i}", rank)
        for i, rank in enumerate((4, 8, 16), 1)
    ]
    family = load(source)
    bank = AdapterBank(family, adapter_folders, memory_bytes=10**9)
    rows = [names[2], None, names[0], names[1], names[0]]
    pixels = torch.randn(len(rows), 3, 32, 32)
    with torch.inference_mode(), bank.use(rows):
        mixed = family.module.encode_image(pixels)
    for i, name in enumerate(rows):
        alone = peft_features(source, name and adapter_folders.path(name), pixels[i : i + 1])[0]
        torch.testing.assert_close(mixed[i], alone, rtol=1e-4, atol=1e-5)
    base = peft_features(source, None, pixels)
    assert not torch.allclose(mixed[0], base[0], atol=1e-2), "the adapter must change something"


@pytest.mark.parametrize("is_mixed", [False, True], ids=["divided", "mixed"])
def test_pictures_that_all_cores_compute_get_the_adapter_of_their_row(
    source: str, tmp_path: Path, is_mixed: bool
) -> None:
    adapter_folders = AdapterFolders(tmp_path / "adapters")
    name = save_random_adapter(load(source), adapter_folders, "p1.v1", 4)
    family = load(source)
    bank = AdapterBank(family, adapter_folders, memory_bytes=10**9)
    pictures = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    files = [png(picture) for picture in pictures]
    prepared = [family.prepare(about_picture("x", ("red", "blue")), lambda _, file=file: file) for file in files]  # type: ignore[misc]
    adapters = [name, None if is_mixed else name, name, name, name]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with torch.inference_mode():
            answers = family.predict(prepared, adapters, bank, FeatureCache({}))
            torch.set_num_threads(1)
            alone = [
                family.predict([row], [adapter], bank, FeatureCache({}))[0]
                for row, adapter in zip(prepared, adapters, strict=True)
            ]
            without = family.predict(prepared, [None] * 5, bank, FeatureCache({}))
    finally:
        torch.set_num_threads(threads)
    for answer, expected in zip(answers, alone, strict=True):
        assert answer.probabilities == pytest.approx(expected.probabilities, rel=1e-4)
    assert answers[0].probabilities != pytest.approx(without[0].probabilities, rel=1e-2)


def test_the_least_recently_used_adapters_are_evicted_when_memory_is_full(source: str, tmp_path: Path) -> None:
    adapter_folders = AdapterFolders(tmp_path / "adapters")
    family = load(source)
    first, second, third = (save_random_adapter(family, adapter_folders, f"p1.v{i}", 8) for i in (1, 2, 3))
    size = sum((layer.in_features + layer.out_features) * 8 * 4 for layer in linear_layers(family))
    bank = AdapterBank(family, adapter_folders, memory_bytes=3 * size)
    for name in (first, second, first, third):
        bank.load(name)
    assert bank.names == [first, third]
    assert bank.nbytes == 3 * size, "two adapters, and the zeros of the base model"


def test_one_batch_may_use_more_adapters_than_fit_into_memory(source: str, tmp_path: Path) -> None:
    adapter_folders = AdapterFolders(tmp_path / "adapters")
    *names, last = (save_random_adapter(load(source), adapter_folders, f"p1.v{i}", 4) for i in (1, 2, 3, 4))
    family = load(source)
    bank = AdapterBank(family, adapter_folders, memory_bytes=1)
    pixels = torch.randn(3, 3, 32, 32)
    with torch.inference_mode(), bank.use(names):
        mixed = family.module.encode_image(pixels)
    for i, name in enumerate(names):
        alone = peft_features(source, adapter_folders.path(name), pixels[i : i + 1])[0]
        torch.testing.assert_close(mixed[i], alone, rtol=1e-4, atol=1e-5)
    bank.load(last)
    assert bank.names == [last], "the others are evicted once the batch has ended"


def test_adapters_are_loaded_and_evicted_while_a_batch_is_computed(source: str, tmp_path: Path) -> None:
    """The batch keeps its adapters, whatever others are loaded, of whatever rank."""
    adapter_folders = AdapterFolders(tmp_path / "adapters")
    used, *others = (
        save_random_adapter(load(source), adapter_folders, f"p1.v{i}", rank)
        for i, rank in enumerate((4, 4, 16, 8, 4, 4, 4, 4, 4, 4, 4), 1)
    )
    family = load(source)
    bank = AdapterBank(family, adapter_folders, memory_bytes=1)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode(), bank.use([used, None]):
        before = family.module.encode_image(pixels)
        for other in others:
            bank.load(other)
        after = family.module.encode_image(pixels)
    assert torch.equal(before, after)
    with torch.inference_mode(), bank.use([others[1], others[0]]):
        mixed = family.module.encode_image(pixels)
    for i, name in enumerate((others[1], others[0])):
        alone = peft_features(source, adapter_folders.path(name), pixels[i : i + 1])[0]
        torch.testing.assert_close(mixed[i], alone, rtol=1e-4, atol=1e-5)


def test_an_evicted_large_adapter_frees_its_memory(source: str, tmp_path: Path) -> None:
    adapter_folders = AdapterFolders(tmp_path / "adapters")
    family = load(source)
    large, *small = (
        save_random_adapter(family, adapter_folders, f"p1.v{i}", r) for i, r in enumerate((64, 4, 4, 4), 1)
    )
    size = sum((layer.in_features + layer.out_features) * 4 * 4 for layer in linear_layers(family))
    bank = AdapterBank(family, adapter_folders, memory_bytes=4 * size)
    for name in (large, *small):
        bank.load(name)
    assert bank.names == small
    assert bank.nbytes == 4 * size


def test_a_missing_adapter_leaves_no_other_pinned(source: str, tmp_path: Path) -> None:
    adapter_folders = AdapterFolders(tmp_path / "adapters")
    family = load(source)
    first, second = (save_random_adapter(family, adapter_folders, f"p1.v{i}", 4) for i in (1, 2))
    bank = AdapterBank(family, adapter_folders, memory_bytes=1)
    with pytest.raises(NotFoundError), bank.use([first, "p9.v9/label"]):
        pass
    bank.load(second)
    assert bank.names == [second]


def test_an_adapter_is_effective_only_for_the_layers_that_it_changes(source: str, tmp_path: Path) -> None:
    adapter_folders = AdapterFolders(tmp_path / "adapters")
    family = load(source)
    both = save_random_adapter(family, adapter_folders, "p1.v1", 4)
    text = save_random_adapter(
        family, adapter_folders, "p1.v2", 4, family.trained_layers(about_picture("x", ("red",)))
    )
    bank = AdapterBank(family, adapter_folders, memory_bytes=10**9)
    trained = set(family.trained_layers(about_picture("x", ("red",))))
    assert [bank.effective_adapter(name, set(family.lora_layers()) - trained) for name in (both, text, None)] == [
        both,
        None,
        None,
    ]
    assert [bank.effective_adapter(name, trained) for name in (both, text, None)] == [both, text, None]


def test_layers_that_no_adapter_of_the_batch_is_on_are_skipped(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the bank holds adapters that are on these layers, and of a higher rank."""
    adapter_folders = AdapterFolders(tmp_path / "adapters")
    family = load(source)
    text_layers = family.trained_layers(about_picture("x", ("red",)))
    text = save_random_adapter(family, adapter_folders, "p1.v1", 4, text_layers)
    both = save_random_adapter(family, adapter_folders, "p1.v2", 8)
    bank = AdapterBank(family, adapter_folders, memory_bytes=10**9)
    bank.load(both)
    ranks: list[int] = []

    def count(output: torch.Tensor, x: torch.Tensor, a: torch.Tensor, *others: Any) -> torch.Tensor:
        ranks.append(a.shape[1])
        return add_low_rank(output, x, a, *others)

    monkeypatch.setattr("model_server.adapters.add_low_rank", count)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        base = family.module.encode_image(pixels)
        with bank.use([text, None]):
            assert torch.equal(family.module.encode_image(pixels), base)
        assert ranks == []
        with bank.use([text, None]):
            family.module.encode_text(torch.ones(2, 77, dtype=torch.long))
    assert set(ranks) == {4} and len(ranks) == len(text_layers)


def test_an_adapter_for_another_base_model_is_refused_and_named(source: str, tmp_path: Path) -> None:
    adapter_folders = AdapterFolders(tmp_path / "adapters")
    name = save_random_adapter(load(source), adapter_folders, "p7.v1", 4)
    weights = adapter_folders.path(name) / "adapter_model.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({key: value[..., :5].contiguous() for key, value in load_file(weights).items()}, weights)
    bank = AdapterBank(load(source), adapter_folders, memory_bytes=10**9)
    with pytest.raises(UnreadableError, match=r"p7\.v1/label.*does not fit.*MODEL_DUAL_ENCODER"):
        bank.load(name)


@pytest.mark.parametrize(
    ("recorded", "is_refused"),
    [
        ("local-dir:/elsewhere/base", False),
        ("/elsewhere/base", False),
        (None, False),
        ("local-dir:/elsewhere/other", True),
        ("hf-hub:someone/base", True),
    ],
)
def test_an_adapter_that_names_another_base_model_of_the_same_shape_is_refused(
    source: str, tmp_path: Path, recorded: str | None, is_refused: bool
) -> None:
    """The base model is in the folder `base`, which may have been moved."""
    adapter_folders = AdapterFolders(tmp_path / "adapters")
    name = save_random_adapter(load(source), adapter_folders, "p7.v1", 4)
    config = adapter_folders.path(name) / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": recorded}))
    bank = AdapterBank(load(source), adapter_folders, memory_bytes=10**9)
    if not is_refused:
        bank.load(name)
        return
    with pytest.raises(
        UnreadableError, match=rf"p7\.v1/label was trained on '{recorded}', not on .*MODEL_DUAL_ENCODER"
    ):
        bank.load(name)


@pytest.mark.parametrize("name", ["p1.v1/../../etc", "../p1.v1/label", "p1.v1/..", "p9.v9/label"])
def test_names_that_leave_the_folder_or_name_no_adapter_are_refused(
    source: str, tmp_path: Path, name: str
) -> None:
    bank = AdapterBank(load(source), AdapterFolders(tmp_path), memory_bytes=10**9)
    with pytest.raises(NotFoundError):
        bank.load(name)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("adapter_model.safetensors", b"no safetensors"),
        ("adapter_model.safetensors", None),
        ("adapter_config.json", b"{"),
        ("adapter_config.json", b'{"peft_type": "LORA"}'),
    ],
)
def test_an_adapter_whose_files_are_broken_is_refused_and_named(
    source: str, tmp_path: Path, file: str, content: bytes | None
) -> None:
    """Such an adapter must not go live, so it is refused like one for another base model."""
    adapter_folders = AdapterFolders(tmp_path / "adapters")
    name = save_random_adapter(load(source), adapter_folders, "p1.v1", 4)
    path = adapter_folders.path(name) / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UnreadableError, match=r"files of adapter p1\.v1/label are broken"):
        AdapterBank(load(source), adapter_folders, 10**9).load(name)
