"""Which device computes, and in which precision."""

import torch

from lorabel.errors import SettingsError
from lorabel.settings import Settings


def choose_device(settings: Settings) -> torch.device:
    """`auto` takes CUDA where there is one. Raises SettingsError for a device that is not here."""
    name = settings.device
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(
            f"DEVICE or TRAIN_DEVICE is {name!r}, which is no device; expected auto, cpu, cuda or cuda:N"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            f"DEVICE or TRAIN_DEVICE is {name!r}, but torch {torch.__version__} sees no CUDA device; set cpu"
        )
    return device


def choose_precision(settings: Settings, device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it (AMX or AVX512-BF16 on CPUs), float32 otherwise."""
    if settings.precision != "auto":
        return torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("amx_bf16") or able.get("avx512_bf16") else torch.float32
