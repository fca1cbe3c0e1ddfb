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
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lorabel.errors import UnreadableError
from lorabel.families import Family
from lorabel.registry import Registry

log = logging.getLogger(__name__)

PREFIX = "base_model.model."
FIRST_SLOTS = 8


@dataclass(frozen=True)
class _Adapter:
    """Per layer A (in, rank) and B (rank, out) on the CPU; LoRA's scaling is in B already."""

    layers: dict[str, tuple[Tensor, Tensor]]

    @property
    def rank(self) -> int:
        return max((a.shape[1] for a, _ in self.layers.values()), default=0)


@dataclass(frozen=True)
class _Stacks:
    """Per layer A (slots, in, rank) and B (slots, rank, out); lower ranks are padded with zeros.

    Slot 0 stays zero: the base model. A batch keeps the stacks that it began with, so they may be replaced by
    larger ones meanwhile.
    """

    layers: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    rank: int = 0
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

    def __init__(self, family: Family, registry: Registry, memory_bytes: int) -> None:
        self._family, self._registry, self._memory_bytes = family, registry, memory_bytes
        self._slots: OrderedDict[str, int] = OrderedDict()
        self._layers_of: dict[str, frozenset[str]] = {}
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

    def changing(self, adapter: str | None, tower: Collection[str]) -> str | None:
        """The adapter if it is on one of these layers; else None, what they compute is then the base model's.
        Raises as `load` does."""
        if adapter is None:
            return None
        while (layers := self._layers_of.get(adapter)) is None:
            self.load(adapter)
        return None if layers.isdisjoint(tower) else adapter

    @contextmanager
    def rows(self, adapters: Sequence[str | None]) -> Iterator[None]:
        """Inside, row i of every batch is computed with `adapters[i]`."""
        names = {name for name in adapters if name is not None}
        if names:
            self._pin(names)
            with self._lock:
                stacks = self._stacks
                slots = [0 if name is None else self._slots[name] for name in adapters]
            only = slots[0] if len(set(slots)) == 1 else None
            self._batch = _Batch(stacks, torch.tensor(slots, device=self._family.device), only)
        try:
            yield
        finally:
            self._batch = None
            with self._lock:
                self._pins -= Counter(names)

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

    def _pin(self, names: Iterable[str]) -> None:
        """Load them, and keep them from leaving."""
        for name in names:
            is_here = False
            while not is_here:
                self.load(name)
                with self._lock:
                    is_here = name in self._slots
                    self._pins[name] += is_here

    @torch.inference_mode()
    def _add(self, name: str, adapter: _Adapter) -> None:
        wanted = dict.fromkeys([*self._stacks.layers, *adapter.layers])
        rank = max(self._stacks.rank, adapter.rank)
        slot_bytes = self._slot_bytes(wanted, rank)
        # Slot 0 takes its room too.
        most = max(1, self._memory_bytes // max(1, slot_bytes) - 1)
        self._evict(len(self._slots) + 1 - most, name)
        needed = len(self._slots) + 2
        if needed > self._stacks.slots or rank > self._stacks.rank or len(wanted) > len(self._stacks.layers):
            self._rebuild(wanted, rank, max(needed, min(most + 1, max(FIRST_SLOTS, 2 * len(self._slots)))))
        slot = min(set(range(1, self._stacks.slots)) - set(self._slots.values()))
        self._stacks.fill(slot, adapter)
        self._slots[name], self._layers_of[name] = slot, frozenset(adapter.layers)

    def _evict(self, count: int, newcomer: str) -> None:
        free = [name for name in self._slots if not self._pins[name]]
        for name in free[: max(0, count)]:
            del self._slots[name], self._layers_of[name]
            log.info("adapter %s makes room for %s", name, newcomer)

    def _rebuild(self, layers: Iterable[str], rank: int, slots: int) -> None:
        """Larger stacks with the same adapters in them, packed to the front."""
        stacks = _Stacks({name: self._empty(name, slots, rank) for name in layers}, rank, slots)
        for new, old in enumerate(self._slots.values(), 1):
            kept = {name: (a[old], b[old]) for name, (a, b) in self._stacks.layers.items()}
            stacks.fill(new, _Adapter(kept))
        self._slots = OrderedDict((name, slot) for slot, name in enumerate(self._slots, 1))
        self._stacks = stacks

    def _empty(self, name: str, slots: int, rank: int) -> tuple[Tensor, Tensor]:
        layer = self._linear(name)
        weight = layer.weight
        return (
            weight.new_zeros(slots, layer.in_features, rank, requires_grad=False),
            weight.new_zeros(slots, rank, layer.out_features, requires_grad=False),
        )

    def _slot_bytes(self, layers: Iterable[str], rank: int) -> int:
        found = [self._linear(name) for name in layers]
        return sum((one.in_features + one.out_features) * rank * one.weight.itemsize for one in found)

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
