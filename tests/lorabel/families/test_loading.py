from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lorabel.families import loading
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
