"""Weights of a base model in 4 bits (NF4, https://arxiv.org/abs/2305.14314), which LoRA learns beside."""

import importlib.util
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from lorabel.errors import SettingsError
from lorabel.settings import Settings


def quantized(settings: Settings, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return what `from_pretrained` needs for 4-bit weights if GENERATOR_4BIT is set; else nothing.

    Args:
        dtype: in which the model computes.

    Raises:
        SettingsError: there is no CUDA device, or no package for it.
    """
    if not settings.generator_4bit:
        return {}
    if device.type != "cuda" or importlib.util.find_spec("bitsandbytes") is None:
        raise SettingsError(
            "GENERATOR_4BIT needs CUDA and the package bitsandbytes (pip install bitsandbytes); the device is "
            f"{device}"
        )
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": config, "device_map": {"": device}}
