"""Loads base models as the model server computes with them: with packed weights, or with weights of 8 bits."""

import logging

import torch

from lorabel.errors import SettingsError
from lorabel.families.base import Family
from lorabel.families.device import choose_device, choose_precision
from lorabel.families.encoders.encoder import Encoder
from lorabel.families.generation.remote import RemoteGenerator
from lorabel.families.generator import Generator
from lorabel.families.int8_layers import quantize_layers
from lorabel.families.int8_products import check_cpu
from lorabel.families.loading import load_family
from lorabel.families.packed_layers import pack_layers
from lorabel.settings import Settings

log = logging.getLogger(__name__)


def load_served(family_type: type[Family], settings: Settings) -> Family:
    """Load a base model that is never trained; see `load_family`.

    With PRECISION=int8 the layers that `Family.int8_layers` names get weights of 8 bits. A family without such
    layers computes as with PRECISION=auto, but a model that writes is refused: who asks for 8 bits counts on its
    memory.

    Raises:
        SettingsError: also if PRECISION=int8 cannot be served.
    """
    if settings.serves_int8:
        _check_int8(family_type, settings)
        if family_type.has_int8:
            family = load_family(family_type, settings, torch.float32)
            quantize_layers(family.module, family.int8_layers())
            log.info("%s has weights of 8 bits", family.name)
            return family
    family = load_family(family_type, settings)
    if isinstance(family, Encoder):
        pack_layers(family.module)
    return family


def served_precision(settings: Settings) -> str:
    """The precision of what is served, as in the setting PRECISION."""
    precision = choose_precision(settings, choose_device(settings))
    return settings.precision if settings.serves_int8 else str(precision).removeprefix("torch.")


def _check_int8(family_type: type[Family], settings: Settings) -> None:
    device = choose_device(settings)
    if device.type != "cpu":
        raise SettingsError(
            f"PRECISION=int8 computes on CPUs only, and DEVICE={settings.device} is {device}; set DEVICE=cpu, or "
            "PRECISION=auto, which is bfloat16 on a GPU that has it"
        )
    check_cpu()
    if issubclass(family_type, Generator) and not issubclass(family_type, RemoteGenerator):
        raise SettingsError(
            "PRECISION=int8 serves encoders, and the generator has no weights of 8 bits; set PRECISION=auto, or "
            "GENERATOR_URL to a server that has them. On CUDA, GENERATOR_4BIT=true keeps its weights in 4 bits"
        )
