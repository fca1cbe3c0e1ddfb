"""The LoRA adapters that are on the device: PEFT trains and saves them, here they are only read and applied.

Rows of one batch may use different adapters. The delta of a linear layer is (x A) B with the row's own A and
B (https://arxiv.org/abs/2106.09685), taken by index from the stacked adapters of the batch, as in Punica's
and S-LoRA's gathered products (https://arxiv.org/abs/2311.03285).
"""

import json
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from lorabel.errors import UnreadableError
from lorabel.families import Family
from lorabel.registry import Registry

log = logging.getLogger(__name__)

PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adapter:
    """Per layer A (in, rank) and B (rank, out); LoRA's scaling is in B already."""

    layers: dict[str, tuple[Tensor, Tensor]]

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes + b.nbytes for a, b in self.layers.values())


@dataclass
class _Batch:
    """The adapters of the rows now being computed; row i uses `adapters[index[i]]`, index 0 is none."""

    adapters: list[Adapter | None]
    index: Tensor
    stacks: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class AdapterBank:
    """Adapters of one family, kept by recency under a memory limit.

    `load` may be called from any thread; `rows` and the forward passes inside it from one only.
    """

    def __init__(self, family: Family, registry: Registry, memory_bytes: int) -> None:
        self._family, self._registry, self._memory_bytes = family, registry, memory_bytes
        self._loaded: OrderedDict[str, Adapter] = OrderedDict()
        self._lock = threading.Lock()
        self._batch: _Batch | None = None
        modules = dict(family.module.named_modules())
        self._layers = {name: modules[name] for name in family.lora_layers()}
        for name, layer in self._layers.items():
            layer.register_forward_hook(partial(self._add_delta, name))

    @property
    def names(self) -> list[str]:
        with self._lock:
            return list(self._loaded)

    @property
    def nbytes(self) -> int:
        with self._lock:
            return sum(adapter.nbytes for adapter in self._loaded.values())

    def load(self, name: str) -> Adapter:
        """The adapter, from memory or from its folder.

        Raises:
            NotFoundError: there is no such folder.
            UnreadableError: it is of another kind or for another base model.
        """
        with self._lock:
            if name in self._loaded:
                self._loaded.move_to_end(name)
                return self._loaded[name]
        adapter = self._read(self._registry.path(name))
        with self._lock:
            self._loaded[name] = adapter
            while len(self._loaded) > 1 and sum(a.nbytes for a in self._loaded.values()) > self._memory_bytes:
                gone, _ = self._loaded.popitem(last=False)
                log.info("adapter %s makes room for %s", gone, name)
        return adapter

    @contextmanager
    def rows(self, adapters: Sequence[str | None]) -> Iterator[None]:
        """Inside, row i of every batch is computed with `adapters[i]`."""
        names: list[str | None] = [None, *sorted({name for name in adapters if name is not None})]
        if len(names) > 1:
            slot = {name: i for i, name in enumerate(names)}
            index = torch.tensor([slot[name] for name in adapters], device=self._family.device)
            self._batch = _Batch([None if name is None else self.load(name) for name in names], index)
        try:
            yield
        finally:
            self._batch = None

    def _add_delta(self, name: str, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """A forward hook: x is (rows, ..., in), or (rows * k, ..., in) where a tower splits pictures into
        windows, row by row."""
        batch = self._batch
        if batch is None:
            return None
        if name not in batch.stacks:
            batch.stacks[name] = self._stack(name, batch.adapters)
        a, b = batch.stacks[name]
        x: Tensor = args[0]
        if x.shape[0] % len(batch.index):
            raise ValueError(f"layer {name!r} got {x.shape[0]} rows where {len(batch.index)} have adapters")
        index = batch.index.repeat_interleave(x.shape[0] // len(batch.index))
        delta = torch.bmm(torch.bmm(x.reshape(x.shape[0], -1, x.shape[-1]), a[index]), b[index])
        return output + delta.view_as(output)

    def _stack(self, name: str, adapters: Sequence[Adapter | None]) -> tuple[Tensor, Tensor]:
        """(adapters, in, rank) and (adapters, rank, out), padded with zeros to the largest rank."""
        layer = self._layers[name]
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"LoRA layer {name!r} is {type(layer).__name__}, expected nn.Linear")
        none = layer.weight.new_zeros(layer.in_features, 0), layer.weight.new_zeros(0, layer.out_features)
        pairs = [none if adapter is None else adapter.layers.get(name, none) for adapter in adapters]
        rank = max(1, *(a.shape[1] for a, _ in pairs))
        return (
            torch.stack([functional.pad(a, (0, rank - a.shape[1])) for a, _ in pairs]),
            torch.stack([functional.pad(b, (0, 0, 0, rank - b.shape[0])) for _, b in pairs]),
        )

    def _read(self, folder: Path) -> Adapter:
        config = json.loads((folder / "adapter_config.json").read_text())
        _check_plain_lora(config, folder)
        scaling = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
        weights = load_file(folder / "adapter_model.safetensors")
        layers = {}
        for key in weights:
            if not key.endswith(".lora_A.weight"):
                continue
            name = key.removeprefix(PREFIX).removesuffix(".lora_A.weight")
            a, b = weights[key], weights[key.replace(".lora_A.", ".lora_B.")]
            layer = self._layers.get(name)
            if not isinstance(layer, nn.Linear) or (a.shape[1], b.shape[0]) != (
                layer.in_features,
                layer.out_features,
            ):
                raise UnreadableError(
                    f"adapter {folder.parent.name}/{folder.name} was trained on "
                    f"{config.get('base_model_name_or_path')!r}, but its layer {name!r} does not fit "
                    f"{self._family.source!r}; set MODEL_{self._family.name.upper()} back, or retrain the project",
                    is_permanent=False,
                )
            layers[name] = self._place(a.T), self._place(scaling * b.T)
        return Adapter(layers)

    def _place(self, weight: Tensor) -> Tensor:
        return weight.contiguous().to(self._family.device, self._family.dtype)


def _check_plain_lora(config: dict[str, Any], folder: Path) -> None:
    special = [key for key in ("use_dora", "alpha_pattern", "rank_pattern", "modules_to_save") if config.get(key)]
    if config.get("peft_type") != "LORA" or special:
        raise UnreadableError(
            f"adapter {folder.parent.name}/{folder.name} is {config.get('peft_type')} "
            f"with {special or 'no extras'}; expected plain LoRA",
            is_permanent=False,
        )
