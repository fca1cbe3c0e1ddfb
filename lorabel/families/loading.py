"""Which family answers a question, and how its base model is loaded from the settings."""

import logging
from functools import cache

import torch

import lorabel.families
from lorabel.contracts import Input
from lorabel.discovery import discover
from lorabel.errors import SettingsError
from lorabel.families.base import Family
from lorabel.families.device import choose_device, choose_precision
from lorabel.settings import Settings

log = logging.getLogger(__name__)


@cache
def family_types() -> tuple[type[Family], ...]:
    """Looked for once: entry points take tens of milliseconds, and every question asks."""
    return discover(lorabel.families, Family)  # type: ignore[type-abstract]


def family_for(question: Input) -> type[Family]:
    """Of those that answer such a question, the one that is made for the fewest modalities.

    Raises:
        SettingsError: none does, or two are alike in that.
    """
    able = [
        one for one in family_types() if isinstance(question, one.inputs) and question.modalities <= one.modalities
    ]
    fewest = min((len(one.modalities) for one in able), default=0)
    chosen = [one for one in able if len(one.modalities) == fewest]
    if len(chosen) != 1:
        about = " and ".join(sorted(question.modalities)) or "nothing"
        names = ", ".join(one.name for one in chosen) or "no family"
        raise SettingsError(
            f"{names} answers questions of kind {question.kind!r} about {about}, expected exactly one"
        )
    return chosen[0]


def families_named(settings: Settings) -> list[type[Family]]:
    """Those of FAMILIES. Raises SettingsError for a name that is none."""
    known = {one.name: one for one in family_types()}
    names = [name.strip() for name in settings.families.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise SettingsError(
                f"FAMILIES names {name!r}, which is no model family; known: {', '.join(sorted(known))}"
            )
    return [known[name] for name in names]


def load_family(family: type[Family], settings: Settings, dtype: torch.dtype | None = None) -> Family:
    """Load the base model that MODEL_<FAMILY> names, on the settings' device and, by default, precision."""
    device = choose_device(settings)
    dtype = dtype or choose_precision(settings, device)
    source = settings.models.get(family.name, family.default_source)
    log.info("loading %s from %s on %s in %s", family.name, source, device, dtype)
    return family.load(source, device, dtype, settings)
