"""The choice of the layers that LoRA goes on: those an adapter may be on, and those a new adapter is put on.

`workers/lora.py` puts LoRA on the chosen layers. docs/decisions/0009 says why the tower for label texts is trained
first; the setting LORA_TOWERS adds the others.
"""

from collections.abc import Collection, Iterable

from torch import nn

from lorabel.contracts import Modality


def linear_layers(module: nn.Module) -> list[str]:
    """Return the names of all linear layers of a module: an adapter may be on each of them.

    A layer that PEFT has wrapped has the same name as before; the layers of its adapters are not listed.
    """
    names: list[str] = []
    for name, layer in module.named_modules():
        is_wrapped = isinstance(getattr(layer, "base_layer", None), nn.Linear)
        is_inside = bool(names) and name.startswith(f"{names[-1]}.")
        if not is_inside and (is_wrapped or isinstance(layer, nn.Linear)):
            names.append(name)
    return names


def trains_all_towers(lora_towers: str) -> bool:
    """Whether the setting LORA_TOWERS puts new adapters on all towers, not only on the one for label texts."""
    return lora_towers == "both"


def trained_modalities(
    lora_towers: str, modalities: frozenset[Modality], by_default: Collection[Modality]
) -> frozenset[Modality]:
    """Return the modalities of contents whose towers a new adapter is put on.

    Args:
        lora_towers: the setting LORA_TOWERS.
        modalities: all modalities of the family.
        by_default: the modalities whose contents are read by the tower for label texts.
    """
    return modalities if trains_all_towers(lora_towers) else frozenset(by_default)


def encoder_layers(
    content_towers: Iterable[Collection[str]], label_tower: Collection[str], head_layer: str | None
) -> list[str]:
    """Return the layers of an encoder that a new adapter is put on, sorted.

    Args:
        content_towers: the layers of each tower that reads contents of the question and is trained.
        label_tower: the layers that read label texts; empty for a question without texts.
        head_layer: the layer of the head, if the head learns from answers to the question.
    """
    layers = {layer for tower in content_towers for layer in tower} | set(label_tower)
    return sorted(layers if head_layer is None else {*layers, head_layer})
