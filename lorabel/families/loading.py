"""Chooses the family that answers an input, and loads its base model as the settings say.

`python -m lorabel.families.loading FAMILY` only tries whether the base model loads.
"""

import logging
import sys
import threading
from functools import cache, lru_cache

import torch

import lorabel.families
from lorabel.contracts import Input, Modality
from lorabel.discovery import discover
from lorabel.errors import SettingsError
from lorabel.families.base import Family
from lorabel.families.device import choose_device, choose_precision
from lorabel.families.load_reports import reported_load
from lorabel.families.model_hub import cache_only, unreachable_hub
from lorabel.settings import Settings

log = logging.getLogger(__name__)
# While transformers loads a model it replaces functions that all models share, and then puts back what it found.
# Two loads in different threads would leave the wrong ones for good: no model would tie its weights any more.
_one_at_a_time = threading.Lock()


@cache
def family_types() -> tuple[type[Family], ...]:
    """Return every family that is installed.

    The result is cached: reading entry points takes tens of milliseconds, and every request needs it.
    """
    return discover(lorabel.families, Family)  # type: ignore[type-abstract]


def family_for(question: Input) -> type[Family]:
    """Return the family that answers a question. If several can, the family with the fewest modalities is chosen.

    Raises:
        SettingsError: no family can, or two have equally few modalities.
    """
    return family_of(type(question), question.modalities)


def family_of(question_type: type[Input], modalities: frozenset[Modality]) -> type[Family]:
    """Return the family that answers questions of a class about contents of these modalities, as `family_for`."""
    return _family_for(family_types(), question_type, modalities)


def source_of(family: type[Family], settings: Settings) -> str:
    """Return the base model of a family that is no pipeline: what MODEL_<FAMILY> names, else its default."""
    return settings.models.get(family.name, family.default_source)


@lru_cache(maxsize=1024)
def _family_for(
    families: tuple[type[Family], ...], question_type: type[Input], asked_modalities: frozenset[Modality]
) -> type[Family]:
    able_families = [
        family
        for family in families
        if issubclass(question_type, family.inputs) and asked_modalities <= family.modalities
    ]
    fewest = min((len(family.modalities) for family in able_families), default=0)
    chosen_families = [family for family in able_families if len(family.modalities) == fewest]
    if len(chosen_families) != 1:
        modalities = " and ".join(sorted(asked_modalities)) or "nothing"
        names = ", ".join(family.name for family in chosen_families) or "no family"
        raise SettingsError(
            f"{names} answers questions of kind {question_type.kind!r} about {modalities}, expected exactly one"
        )
    return chosen_families[0]


def base_model_types() -> tuple[type[Family], ...]:
    """Return every family that has a base model of its own, which a setting MODEL_<FAMILY> names."""
    return tuple(family for family in family_types() if not family.part_types)


def trained_types() -> tuple[type[Family], ...]:
    """Return every family whose adapters are trained, pipelines included; LORA_KIND_<FAMILY> may name each."""
    return tuple(family for family in family_types() if family.has_lora)


def check_lora_kinds(settings: Settings) -> None:
    """Raise SettingsError if a setting LORA_KIND_<FAMILY> is for no family whose adapters are trained."""
    names = {family.name for family in trained_types()}
    for name in sorted(settings.lora_kinds.keys() - names):
        raise SettingsError(
            f"LORA_KIND_{name.upper()} is set, but no family {name!r} has adapters; "
            f"known: {', '.join(sorted(names))}"
        )


def part_names(family_name: str) -> tuple[str, ...]:
    """Return the names of the families that compute for a family: its own, or those of the parts of a pipeline."""
    parts = {family.name: family.part_types for family in family_types()}.get(family_name, ())
    return tuple(part.name for part in parts) or (family_name,)


def families_named(settings: Settings) -> list[type[Family]]:
    """Return the families that the setting FAMILIES names, in its order.

    Raises:
        SettingsError: a name is not the name of a family.
    """
    families = {family.name: family for family in base_model_types()}
    for name in settings.family_names:
        if name not in families:
            raise SettingsError(
                f"FAMILIES names {name!r}, which is no model family; known: {', '.join(sorted(families))}"
            )
    return [families[name] for name in settings.family_names]


def load_family(family: type[Family], settings: Settings, dtype: torch.dtype | None = None) -> Family:
    """Load the base model that the setting MODEL_<FAMILY> names, or the default of the family.

    A pipeline of families is loaded part by part. In a process one model is loaded at a time; others wait.

    Args:
        settings: also choose the device.
        dtype: precision of the weights; None: the precision that the settings choose.

    Raises:
        SettingsError: the device or the model is not available.
    """
    device = choose_device(settings)
    if device.type == "cuda":
        # On an H100 or H200, torch prefers cuDNN's attention. Its gradients can be NaN with a mask and 64 tokens,
        # which the demo model has: https://github.com/pytorch/pytorch/issues/196678
        torch.backends.cuda.enable_cudnn_sdp(False)
    dtype = dtype or choose_precision(settings, device)
    if family.part_types:
        return family.of([load_family(part, settings, dtype) for part in family.part_types])
    source = source_of(family, settings)
    log.info("loading %s from %s on %s in %s", family.name, source, device, dtype)
    with reported_load(f"{family.name} from {source}"), _one_at_a_time:
        hub_fault = None if family.is_local(source) else unreachable_hub()
        if hub_fault is None:
            return family.load(source, device, dtype, settings)
        log.warning("the model hub cannot be reached: %s; only this machine's cache is used", hub_fault)
        with cache_only():
            return _load_from_cache(family, source, device, dtype, settings, hub_fault)


def _load_from_cache(
    family: type[Family], source: str, device: torch.device, dtype: torch.dtype, settings: Settings, hub_fault: str
) -> Family:
    try:
        return family.load(source, device, dtype, settings)
    except SettingsError as error:
        variable = f"MODEL_{family.name.upper()}"
        cause = str(error.__cause__ or error).strip().partition("\n")[0]
        raise SettingsError(
            f"{variable}={source!r} cannot be loaded: the model hub cannot be reached: {hub_fault}; run "
            f"`lorabel fetch-model {family.name} FOLDER` on a machine that reaches the hub, copy the folder here, "
            f"and set {variable}=local-dir:FOLDER. HF_ENDPOINT names another hub, HTTPS_PROXY a proxy. This "
            f"machine's cache is not enough: {cause}"
        ) from error


def _try_to_load(family_name: str) -> None:
    """Load the base model of a family, and end the process with the reason if it does not load."""
    try:
        load_family(next(family for family in family_types() if family.name == family_name), Settings())
    except SettingsError as error:
        sys.exit(" ".join(str(error).split()))


if __name__ == "__main__":
    _try_to_load(sys.argv[1])
