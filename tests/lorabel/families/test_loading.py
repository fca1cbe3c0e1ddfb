import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.initialization import no_tie_weights

from lorabel.families import loading
from lorabel.families.audio_text_encoder import AudioTextEncoder
from lorabel.families.base import Family
from lorabel.families.detector import Detector
from lorabel.families.segmenter import Segmenter
from lorabel.families.text_encoder import TextEncoder
from lorabel.families.token_classifier import TokenClassifier
from lorabel.settings import Settings


class Loaded:
    """A family that says where it was loaded to."""

    name, default_source, part_types = "loaded", "nowhere", ()

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Any:
        return SimpleNamespace(device=device, dtype=dtype)

    @staticmethod
    def is_local(source: str) -> bool:
        return True


def test_models_on_a_gpu_do_without_cudnns_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "choose_device", lambda settings: torch.device("cuda"))
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        family = loading.load_family(Loaded, Settings(precision="bfloat16"))  # type: ignore[arg-type]
        assert (family.device.type, family.dtype) == ("cuda", torch.bfloat16)
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def test_two_families_that_are_asked_for_at_once_leave_transformers_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """transformers replaces a method of all models while it loads one, and then puts back what it found.

    If a second load begins in between and ends later, no model of the process ties its weights any more.
    """
    tie_weights = PreTrainedModel.tie_weights
    monkeypatch.setattr(PreTrainedModel, "tie_weights", tie_weights)  # puts it back whatever happens here
    begun, ended = Event(), Event()

    class First(Loaded):
        @classmethod
        def load(cls, *_: Any) -> Any:
            with no_tie_weights():
                begun.set()
                second_began.wait(0.5)
            ended.set()

    second_began = Event()

    class Second(Loaded):
        @classmethod
        def load(cls, *_: Any) -> Any:
            with no_tie_weights():
                second_began.set()
                ended.wait(0.5)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(loading.load_family, First, Settings())  # type: ignore[arg-type]
        assert begun.wait(10)
        second = pool.submit(loading.load_family, Second, Settings())  # type: ignore[arg-type]
        first.result(), second.result()
    assert PreTrainedModel.tie_weights is tie_weights


@pytest.mark.parametrize("family", [AudioTextEncoder, Detector, Segmenter, TextEncoder, TokenClassifier])
def test_loading_leaves_the_precision_alone_in_which_other_threads_make_tensors(
    family: type[Family], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers sets torch's default precision, which all threads share, while it loads."""
    source = family.tiny(tmp_path)
    for file in tmp_path.rglob("*.safetensors"):
        halved = {
            name: weight.half() if weight.is_floating_point() else weight
            for name, weight in load_file(file).items()
        }
        save_file(halved, file, metadata={"format": "pt"})
    for file in tmp_path.rglob("config.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "dtype": "float16"}))
    chosen: list[torch.dtype] = []
    set_default = torch.set_default_dtype

    def record(dtype: torch.dtype) -> None:
        chosen.append(dtype)
        set_default(dtype)

    monkeypatch.setattr(torch, "set_default_dtype", record)
    loaded = family.load(source, torch.device("cpu"), torch.bfloat16, Settings())
    assert set(chosen) <= {torch.float32}
    expected = torch.float32 if family is Segmenter else torch.bfloat16
    weights = loaded.module.named_parameters()
    assert {weight.dtype for name, weight in weights if not name.startswith("heads.")} == {expected}
