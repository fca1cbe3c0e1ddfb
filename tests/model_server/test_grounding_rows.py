"""Rows of projects with adapters and prompts of their own in one batch of a model of the class of LLMDet."""

import io
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.demo.scenes import random_scenes
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.detection.small_grounding_dino import (
    random_model,
    save_model,
    small_config,
    wordpiece_tokenizer,
)
from lorabel.families.detector import Detector
from lorabel.settings import Settings
from lorabel.space_contracts import Boxes, BoxesInput
from model_server.adapters import AdapterBank
from workers import lora
from workers.attempt import save_adapter

pytestmark = pytest.mark.slow

Labels = tuple[tuple[str, ...], ...]
FEW: Labels = (("red circle",), ("blue thing",))
MANY: Labels = tuple((f"blue thing {number}",) for number in range(70))
OTHERS: Labels = (("a cross",), ("grade A", "a good part"), ("red",), ("v1.2 of a circle",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("mm_grounding_dino")
    tokenizer = wordpiece_tokenizer(("red", "blue", "circle", "thing", "cross"))
    save_model(random_model(small_config(tokenizer, 64, 16, 20)), tokenizer, 64, folder)
    return folder


def load(folder: Path, towers: str = "text", dtype: torch.dtype = torch.float32) -> Detector:
    settings = Settings(detector_overlap=1.0, detector_max_boxes=1000, lora_towers=towers)
    return Detector.load(f"local-dir:{folder}", torch.device("cpu"), dtype, settings)


def file(seed: int, size: tuple[int, int]) -> bytes:
    data = io.BytesIO()
    next(random_scenes(seed, (96, 96))).draw().resize(size).save(data, "PNG")
    return data.getvalue()


def question(labels: Labels) -> BoxesInput:
    picture = Content(modality=Modality.IMAGE, media=MediaRef(url="x"))
    return BoxesInput(contents=(picture,), labels=labels)


def write_adapter(folder: Path, folders: AdapterFolders, version: str, towers: str) -> str:
    family = load(folder, towers)
    layers = family.trained_layers(question(FEW))
    model = get_peft_model(family.module, LoraConfig(r=4, lora_alpha=8, target_modules=lora.only(layers)))
    model.peft_config["default"].base_model_name_or_path = family.source
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    folders.write(version, lambda target: save_adapter(model, family, target / "box"))
    return f"{version}/box"


def alone(folder: Path, adapter: Path | None, picture: bytes, labels: Labels) -> Boxes:
    """The answer of PEFT to one question."""
    family = load(folder)
    if adapter is not None:
        PeftModel.from_pretrained(family.module, adapter)
    prepared = family.prepare(question(labels), lambda _: picture)
    (answer,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    assert isinstance(answer, Boxes)
    return answer


def test_rows_with_other_adapters_prompts_and_shapes_are_what_each_is_alone(folder: Path, tmp_path: Path) -> None:
    folders = AdapterFolders(tmp_path / "adapters")
    first, second = (
        write_adapter(folder, folders, f"p{number}.v1", towers) for number, towers in ((1, "text"), (2, "both"))
    )
    square, wide = file(1, (64, 64)), file(2, (128, 80))
    rows: list[tuple[bytes, Labels, str | None]] = [
        (square, FEW, first),
        (square, OTHERS, None),
        (wide, FEW, second),
        (square, MANY, second),
        (square, FEW, None),
        (wide, OTHERS, first),
        (square, OTHERS, second),
    ]
    family = load(folder)
    bank = AdapterBank(family, folders, memory_bytes=10**9)
    prepared = [
        family.prepare(question(labels), lambda _, picture=picture: picture)  # type: ignore[misc]
        for picture, labels, _ in rows
    ]
    mixed = family.predict(prepared, [adapter for *_, adapter in rows], bank, FeatureCache({}))
    for (picture, labels, adapter), found in zip(rows, mixed, strict=True):
        expected = alone(folder, adapter and folders.path(adapter), picture, labels)
        assert isinstance(found, Boxes)
        assert len(found.boxes) == len(expected.boxes) > 10
        for box, other in zip(found.boxes, expected.boxes, strict=True):
            assert box.probability == pytest.approx(other.probability, abs=1e-4)
        for box, other in zip(found.boxes[:5], expected.boxes[:5], strict=True):
            assert (box.label, *box.corners) == pytest.approx((other.label, *other.corners), abs=1e-4)
    assert mixed[0] != mixed[4], "an adapter changes the answer about the same picture"


def test_adapters_have_the_precision_of_their_layers(folder: Path, tmp_path: Path) -> None:
    """In bfloat16 only the backbone is; before, each row with an adapter failed."""
    folders = AdapterFolders(tmp_path / "adapters")
    adapter = write_adapter(folder, folders, "p1.v1", "text")
    family = load(folder, dtype=torch.bfloat16)
    bank = AdapterBank(family, folders, memory_bytes=10**9)
    picture = file(1, (64, 64))
    prepared = family.prepare(question(FEW), lambda _: picture)
    expected = alone(folder, folders.path(adapter), picture, FEW)
    for adapters in ([adapter], [adapter, None]):
        found = family.predict([prepared] * len(adapters), adapters, bank, FeatureCache({}))[0]
        assert isinstance(found, Boxes)
        for box, other in zip(found.boxes[:5], expected.boxes[:5], strict=True):
            assert box.probability == pytest.approx(other.probability, abs=0.05)


@pytest.mark.parametrize("adapter_of", [("tower",) * 4, ("tower", None, "tower", None)], ids=["divided", "mixed"])
def test_pictures_on_several_cores_get_the_adapter_of_their_row(
    folder: Path, tmp_path: Path, adapter_of: tuple[str | None, ...]
) -> None:
    folders = AdapterFolders(tmp_path / "adapters")
    tower = write_adapter(folder, folders, "p1.v1", "both")
    family = load(folder)
    bank = AdapterBank(family, folders, memory_bytes=10**9)
    files = [file(seed, (64, 64)) for seed in range(1, 5)]
    prepared = [family.prepare(question(FEW), lambda _, picture=picture: picture) for picture in files]  # type: ignore[misc]
    adapters = [name and tower for name in adapter_of]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        answers = family.predict(prepared, adapters, bank, FeatureCache({}))
    finally:
        torch.set_num_threads(threads)
    for picture, adapter, found in zip(files, adapters, answers, strict=True):
        expected = alone(folder, adapter and folders.path(adapter), picture, FEW)
        assert isinstance(found, Boxes)
        for box, other in zip(found.boxes[:5], expected.boxes[:5], strict=True):
            assert box.probability == pytest.approx(other.probability, abs=1e-4)
