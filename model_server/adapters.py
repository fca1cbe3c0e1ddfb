"""The LoRA adapters that are on the device: PEFT trains and saves them, here they are only read and applied.

Rows of one batch may use different adapters. The delta of a linear layer is (x A) B with the row's own A and
B (https://arxiv.org/abs/2106.09685), taken by index from all adapters stacked, as in Punica's and S-LoRA's
gathered products (https://arxiv.org/abs/2311.03285): two batched products, however many adapters are mixed.
"""

import json
import logging
import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import UnreadableError
from lorabel.families.base import Family

log = logging.getLogger(__name__)

PREFIX = "base_model.model."
FIRST_SLOTS = 8


@dataclass(frozen=True)
class _Adapter:
    """Per layer A (in, rank) and B (rank, out) on the CPU; LoRA's scaling is in B already."""

    layers: dict[str, tuple[Tensor, Tensor]]

    @property
    def shape(self) -> "_Shape":
        return _Shape(frozenset(self.layers), max((a.shape[1] for a, _ in self.layers.values()), default=0))


@dataclass(frozen=True)
class _Shape:
    layers: frozenset[str]
    rank: int

    def __or__(self, other: "_Shape") -> "_Shape":
        """What has room for both."""
        return _Shape(self.layers | other.layers, max(self.rank, other.rank))


@dataclass(frozen=True)
class _Stacks:
    """Per layer A (slots, in, rank) and B (slots, rank, out); lower ranks are padded with zeros.

    Slot 0 stays zero: the base model. A batch keeps the stacks that it began with, so they may be replaced by
    larger ones meanwhile.
    """

    layers: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    shape: _Shape = _Shape(frozenset(), 0)
    slots: int = 0

    @property
    def slot_bytes(self) -> int:
        return sum(a[0].nbytes + b[0].nbytes for a, b in self.layers.values())

    def fill(self, slot: int, adapter: _Adapter) -> None:
        for name, (a, b) in self.layers.items():
            a[slot].zero_()
            b[slot].zero_()
            if name in adapter.layers:
                own_a, own_b = adapter.layers[name]
                a[slot, :, : own_a.shape[1]].copy_(own_a)
                b[slot, : own_b.shape[0]].copy_(own_b)


@dataclass(frozen=True)
class _Batch:
    """Row i uses slot `index[i]`; `only`: the one slot of them all, where there is one."""

    stacks: _Stacks
    index: Tensor
    only: int | None


class AdapterBank:
    """Adapters of one family, kept by recency under a memory limit, which one batch with more adapters may pass.

    `load` may be called from any thread, also while a batch is computed; `rows` and the forward passes inside it
    from one only.
    """

    def __init__(self, family: Family, registry: AdapterFolders, memory_bytes: int) -> None:
        self._family, self._registry, self._memory_bytes = family, registry, memory_bytes
        self._slots: OrderedDict[str, int] = OrderedDict()
        self._shapes: dict[str, _Shape] = {}
        self._pins: Counter[str] = Counter()
        self._stacks = _Stacks()
        self._lock = threading.Lock()
        self._batch: _Batch | None = None
        modules = dict(family.module.named_modules())
        self._layers = {name: modules[name] for name in family.lora_layers()}
        for name, layer in self._layers.items():
            layer.register_forward_hook(partial(self._add_delta, name))

    @property
    def names(self) -> list[str]:
        with self._lock:
            return list(self._slots)

    @property
    def nbytes(self) -> int:
        """Of the device's memory, the room for adapters to come included."""
        with self._lock:
            return self._stacks.slots * self._stacks.slot_bytes

    def load(self, name: str) -> None:
        """Have the adapter on the device.

        Raises:
            NotFoundError: there is no such folder.
            UnreadableError: it is of another kind or for another base model.
        """
        with self._lock:
            if name in self._slots:
                self._slots.move_to_end(name)
                return
        adapter = self._read(self._registry.path(name))
        with self._lock:
            if name not in self._slots:
                self._add(name, adapter)

    def effective_adapter(self, adapter: str | None, layers: Collection[str]) -> str | None:
        """The adapter if it is on one of these layers; else None, what they compute is then the base model's.
        Raises as `load` does."""
        if adapter is None:
            return None
        while (shape := self._shapes.get(adapter)) is None:
            self.load(adapter)
        return None if shape.layers.isdisjoint(layers) else adapter

    @contextmanager
    def use(self, adapters: Sequence[str | None]) -> Iterator[None]:
        """Inside, row i of every batch is computed with `adapters[i]`."""
        pinned: list[str] = []
        try:
            for name in {name for name in adapters if name is not None}:
                self._pin(name)
                pinned.append(name)
            if pinned:
                self._batch = self._index(adapters)
            yield
        finally:
            self._batch = None
            with self._lock:
                self._pins -= Counter(pinned)

    def _index(self, adapters: Sequence[str | None]) -> _Batch:
        with self._lock:
            stacks = self._stacks
            slots = [0 if name is None else self._slots[name] for name in adapters]
        only = slots[0] if len(set(slots)) == 1 else None
        return _Batch(stacks, torch.tensor(slots, device=self._family.device), only)

    def _add_delta(self, name: str, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """A forward hook: x is (rows, ..., in), or (rows * k, ..., in) where a tower splits pictures into
        windows, row by row."""
        batch = self._batch
        if batch is None or name not in batch.stacks.layers:
            return None
        a, b = batch.stacks.layers[name]
        x: Tensor = args[0]
        if batch.only is not None:
            flat = output.reshape(-1, output.shape[-1])
            return flat.addmm_(x.reshape(-1, x.shape[-1]) @ a[batch.only], b[batch.only]).view_as(output)
        if x.shape[0] % len(batch.index):
            raise ValueError(f"layer {name!r} got {x.shape[0]} rows where {len(batch.index)} have adapters")
        index = batch.index.repeat_interleave(x.shape[0] // len(batch.index))
        low = torch.bmm(x.reshape(x.shape[0], -1, x.shape[-1]), a[index])
        return output.reshape(x.shape[0], -1, output.shape[-1]).baddbmm_(low, b[index]).view_as(output)

    def _pin(self, name: str) -> None:
        """Load it, and keep it from leaving."""
        is_here = False
        while not is_here:
            self.load(name)
            with self._lock:
                is_here = name in self._slots
                self._pins[name] += is_here

    @torch.inference_mode()
    def _add(self, name: str, adapter: _Adapter) -> None:
        most = self._capacity(self._shape_with(adapter))
        excess = len(self._slots) + 1 - most
        self._evict(excess, name)
        # Those that left may have been the largest.
        shape = self._shape_with(adapter)
        most = self._capacity(shape)
        needed = len(self._slots) + 2
        has_room = needed <= self._stacks.slots and shape | self._stacks.shape == self._stacks.shape
        if not has_room or (excess > 0 and shape != self._stacks.shape):
            self._rebuild(shape, max(needed, min(most + 1, max(FIRST_SLOTS, 2 * len(self._slots)))))
        slot = min(set(range(1, self._stacks.slots)) - set(self._slots.values()))
        self._stacks.fill(slot, adapter)
        self._slots[name], self._shapes[name] = slot, adapter.shape

    def _shape_with(self, newcomer: _Adapter) -> _Shape:
        shape = newcomer.shape
        for other in self._shapes.values():
            shape |= other
        return shape

    def _capacity(self, shape: _Shape) -> int:
        """How many adapters the memory is for; slot 0 takes its room, too."""
        found = [self._linear(name) for name in shape.layers]
        slot_bytes = sum((one.in_features + one.out_features) * shape.rank * one.weight.itemsize for one in found)
        return max(1, self._memory_bytes // max(1, slot_bytes) - 1)

    def _evict(self, count: int, newcomer: str) -> None:
        free = [name for name in self._slots if not self._pins[name]]
        for name in free[: max(0, count)]:
            del self._slots[name], self._shapes[name]
            log.info("adapter %s makes room for %s", name, newcomer)

    def _rebuild(self, shape: _Shape, slots: int) -> None:
        """Other stacks with the same adapters in them, packed to the front."""
        layers = {name: self._empty(name, slots, shape.rank) for name in shape.layers}
        stacks = _Stacks(layers, shape, slots)
        for new, (name, old) in enumerate(self._slots.items(), 1):
            own = self._shapes[name]
            kept = {layer: self._stacks.layers[layer] for layer in own.layers}
            stacks.fill(
                new,
                _Adapter({layer: (a[old, :, : own.rank], b[old, : own.rank]) for layer, (a, b) in kept.items()}),
            )
        self._slots = OrderedDict((name, slot) for slot, name in enumerate(self._slots, 1))
        self._stacks = stacks

    def _empty(self, name: str, slots: int, rank: int) -> tuple[Tensor, Tensor]:
        layer = self._linear(name)
        weight = layer.weight
        return (
            weight.new_zeros(slots, layer.in_features, rank, requires_grad=False),
            weight.new_zeros(slots, rank, layer.out_features, requires_grad=False),
        )

    def _linear(self, name: str) -> nn.Linear:
        layer = self._layers[name]
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"LoRA layer {name!r} is {type(layer).__name__}, expected nn.Linear")
        return layer

    def _read(self, folder: Path) -> _Adapter:
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
            layers[name] = a.T, scaling * b.T
        return _Adapter(layers)


def _check_plain_lora(config: dict[str, Any], folder: Path) -> None:
    special = [key for key in ("use_dora", "alpha_pattern", "rank_pattern", "modules_to_save") if config.get(key)]
    if config.get("peft_type") != "LORA" or special:
        raise UnreadableError(
            f"adapter {folder.parent.name}/{folder.name} is {config.get('peft_type')} "
            f"with {special or 'no extras'}; expected plain LoRA",
            is_permanent=False,
        )
