"""Chooses the device that computes, and its precision."""

import torch

from lorabel.errors import SettingsError
from lorabel.settings import Settings


def choose_device(settings: Settings) -> torch.device:
    """Return the device that the settings name; `auto` is CUDA if it is available, else the CPU.

    Raises:
        SettingsError: the device does not exist on this machine.
    """
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
    """Return the precision that the settings name.

    `auto` is bfloat16 if the device computes in it (CPUs: with AMX or AVX512-BF16), else float32. So is `int8`:
    it is the precision of served weights, and this one that of training runs and of families without such weights.
    """
    if settings.precision in ("float32", "bfloat16"):
        return torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else torch.float32
