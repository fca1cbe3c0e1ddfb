"""Reads adapters that PEFT saved, of whatever kind, as changes of linear layers that one batch can mix.

Whatever its kind, an adapter changes the output y = W x + bias of a layer to

    y + (x A) B + gain * y + shift

with A (in, rank) and B (rank, out), and with gain and shift (out,):

| kind | A B | gain | shift |
|---|---|---|---|
| LoRA, rsLoRA | the adapter's A and B, B times the scaling | | |
| AdaLoRA | Q and P; Lambda and the scaling are multiplied into P | | |
| DoRA | as LoRA, B times m | m - 1 | (1 - m) * bias |
| IA3 | | l - 1 | |

m is DoRA's magnitude divided by the norm of each row of W + B A. W is the base model's, in the precision in which
it is served. An IA3 vector that multiplies a layer's inputs is no such change, and is refused.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lorabel.adapter_kinds import ADALORA, DORA, IA3, KINDS, OF_SERVERS, kind_of
from lorabel.errors import UnreadableError

PREFIX = "base_model.model."
SPECIAL_KEYS = ("alpha_pattern", "modules_to_save", "lora_bias", "feedforward_modules")
# AdaLoRA's own, against a division by zero.
SMALL = 1e-5
# What a layer's weights are called in the file, without the layer's name.
A, B, LAMBDA, MAGNITUDE, IA3_VECTOR = "lora_A", "lora_B", "lora_E", "lora_magnitude_vector", "ia3_l"


@dataclass(frozen=True)
class LayerChange:
    """What an adapter adds to the output of a linear layer, on the CPU.

    Args:
        a: (in, rank); of rank 0 if only outputs are scaled.
        b: (rank, out), with all scalings.
        scale: (2, out), gain and shift; None if there are none.
    """

    a: Tensor
    b: Tensor
    scale: Tensor | None = None

    @property
    def rank(self) -> int:
        """The number of rows of `b`."""
        return self.b.shape[0]


class UnfitLayerError(ValueError):
    """A layer of an adapter is none of the base model's, or has another size."""


def read_changes(
    folder: Path, config: Mapping[str, Any], layers: Mapping[str, nn.Module]
) -> dict[str, LayerChange]:
    """Read the weights of an adapter.

    Args:
        config: the folder's `adapter_config.json`.
        layers: the base model's layers that an adapter may be on, by name.

    Returns:
        A change for each layer that the adapter is on.

    Raises:
        UnreadableError: the adapter is of a kind that cannot be applied, or needs weights that are quantized.
        UnfitLayerError: it does not fit the layers.
    """
    kind = check_kind(config, folder)
    weights: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        name, _, part = key.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        weights.setdefault(name, {})[part] = tensor.float()
    changes = {}
    for name, parts in weights.items():
        layer = layers.get(name)
        if not isinstance(layer, nn.Linear):
            raise UnfitLayerError(f"but its layer {name!r} does not fit")
        change = _of_vector(parts) if kind == IA3 else _of_matrices(parts, config, kind)
        rows, columns = layer.out_features, layer.in_features
        if change.rank and (change.a.shape[0], change.b.shape[1]) != (columns, rows):
            raise UnfitLayerError(f"but its layer {name!r} does not fit")
        if change.scale is not None and change.scale.shape[1] != rows:
            raise UnfitLayerError(f"but its layer {name!r} does not fit")
        changes[name] = _with_magnitude(change, parts, layer, name, folder) if kind == DORA else change
    return changes


def _of_vector(parts: Mapping[str, Tensor]) -> LayerChange:
    vector = parts[IA3_VECTOR].flatten()
    scale = torch.stack([vector - 1, torch.zeros_like(vector)])
    return LayerChange(torch.zeros(0, 0), torch.zeros(0, len(vector)), scale)


def _of_matrices(parts: Mapping[str, Tensor], config: Mapping[str, Any], kind: str) -> LayerChange:
    a, b = parts[A], parts[B]
    if a.shape[0] != b.shape[1] or parts.get(LAMBDA, a).shape[0] != a.shape[0]:
        raise ValueError(f"A has rank {a.shape[0]}, and B {b.shape[1]}")
    if kind == ADALORA:
        # PEFT divides by the rank before any was given up, which it does not store.
        rank = config["init_r"]
        scaling = (config["lora_alpha"] if config["lora_alpha"] > 0 else rank) / (rank + SMALL)
        return LayerChange(a.T, scaling * parts[LAMBDA] * b.T)
    rank = config["r"]
    scaling = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return LayerChange(a.T, scaling * b.T)


def _with_magnitude(
    change: LayerChange, parts: Mapping[str, Tensor], layer: nn.Linear, name: str, folder: Path
) -> LayerChange:
    weight = layer.weight.detach()
    if not weight.dtype.is_floating_point or weight.shape != (layer.out_features, layer.in_features):
        raise UnreadableError(
            f"adapter {adapter_name(folder)} is DoRA, which needs the norms of weights, and those of layer "
            f"{name!r} are quantized; serve the base model in full precision, or retrain with LORA_KIND=lora",
            is_permanent=False,
        )
    # On the device: to move the weights of all layers from there would take longer.
    low_rank = (change.a @ change.b).T.to(weight.device)
    norms = torch.linalg.norm(weight.float() + low_rank, dim=1).cpu()
    magnitudes = parts[MAGNITUDE].flatten()
    if magnitudes.shape != norms.shape:
        raise UnfitLayerError(f"but its layer {name!r} does not fit")
    m = magnitudes / norms
    bias = torch.zeros_like(m) if layer.bias is None else layer.bias.detach().float().cpu()
    return LayerChange(change.a, change.b * m, torch.stack([m - 1, (1 - m) * bias]))


def adapter_name(folder: Path) -> str:
    """The name of the adapter in a folder, e.g. `p12.v3/label`."""
    return f"{folder.parent.name}/{folder.name}"


def model_name(source: str) -> str:
    """The source of a base model without what does not tell models apart: the place of a local folder."""
    name = source.removeprefix("hf-hub:").removeprefix("local-dir:")
    return Path(name).name if source.startswith("local-dir:") or Path(name).is_absolute() else name


def check_kind(config: Mapping[str, Any], folder: Path) -> str:
    """Return the kind of an adapter; raise UnreadableError if it cannot be applied."""
    kind = kind_of(config)
    # AdaLoRA says in its rank pattern which ranks it has given up; its weights have no others.
    special = (*SPECIAL_KEYS, *(() if kind == ADALORA else ("rank_pattern",)))
    special_keys = [key for key in special if config.get(key)]
    if kind is None or special_keys:
        raise UnreadableError(
            f"adapter {adapter_name(folder)} is {config.get('peft_type')} with {special_keys or 'no extras'}; "
            f"expected one of {', '.join(KINDS)} without extras",
            is_permanent=False,
        )
    return kind


def check_kind_of_server(config: Mapping[str, Any], folder: Path) -> None:
    """Raise UnreadableError if a server such as vLLM cannot apply an adapter."""
    kind = check_kind(config, folder)
    if kind not in OF_SERVERS:
        raise UnreadableError(
            f"adapter {adapter_name(folder)} is {kind}; the server at GENERATOR_URL computes only "
            f"{' and '.join(OF_SERVERS)}; retrain with LORA_KIND_GENERATOR=lora",
            is_permanent=False,
        )


def read_config(folder: Path) -> dict[str, Any]:
    """Read `adapter_config.json` of a folder."""
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return config
