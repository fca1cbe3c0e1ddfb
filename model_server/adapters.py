"""LoRA adapters on the device. PEFT trains and saves them; this module only loads and applies them.

Rows of one batch may use different adapters. A layer with LoRA adds (x A) B to its output, with A and B of the
row's adapter (https://arxiv.org/abs/2106.09685). A and B of all adapters are stacked and then selected by index,
as in the gathered products of Punica and S-LoRA (https://arxiv.org/abs/2311.03285). A layer so needs two batched
products, however many adapters a batch mixes.
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
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import UnreadableError
from lorabel.families.base import Family
from lorabel.families.packed_layers import PackedLinear

log = logging.getLogger(__name__)

PREFIX = "base_model.model."
FIRST_SLOTS = 8


@dataclass(frozen=True)
class _Adapter:
    """A (in, rank) and B (rank, out) of each layer, on the CPU. B is already multiplied by LoRA's scaling."""

    layers: dict[str, tuple[Tensor, Tensor]]

    @property
    def shape(self) -> "_Shape":
        return _Shape(frozenset(self.layers), max((a.shape[1] for a, _ in self.layers.values()), default=0))


@dataclass(frozen=True)
class _Shape:
    layers: frozenset[str]
    rank: int

    def __or__(self, other: "_Shape") -> "_Shape":
        """The smallest shape that has room for both."""
        return _Shape(self.layers | other.layers, max(self.rank, other.rank))


@dataclass(frozen=True)
class _Stacks:
    """A (slots, in, rank) and B (slots, rank, out) of each layer; lower ranks are padded with zeros.

    Slot 0 stays zero and stands for the base model. A batch keeps the stacks with which it began, so larger
    stacks may replace them while the batch is computed.
    """

    layers: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    shape: _Shape = _Shape(frozenset(), 0)
    slots: int = 0

    @property
    def slot_bytes(self) -> int:
        return sum(a[0].nbytes + b[0].nbytes for a, b in self.layers.values())

    def fill(self, slot: int, adapter: _Adapter) -> None:
        """Copy an adapter into a slot; layers that the adapter lacks become zero there."""
        for name, (a, b) in self.layers.items():
            a[slot].zero_()
            b[slot].zero_()
            if name in adapter.layers:
                adapter_a, adapter_b = adapter.layers[name]
                a[slot, :, : adapter_a.shape[1]].copy_(adapter_a)
                b[slot, : adapter_b.shape[0]].copy_(adapter_b)


@dataclass(frozen=True)
class _Batch:
    """The adapters of a batch: row i uses slot `index[i]`. `only_slot` is set if all rows use the same slot."""

    stacks: _Stacks
    index: Tensor
    only_slot: int | None


class AdapterBank:
    """The adapters of one family that are on the device; the least recently used ones are evicted.

    `load` and `effective_adapter` may be called from any thread, also while a batch is computed. `use` and the
    forward passes inside it belong to one thread.

    Args:
        adapter_folders: where adapters are read from.
        memory_bytes: limit for all adapters together. A single batch whose adapters need more may exceed it.
    """

    def __init__(self, family: Family, adapter_folders: AdapterFolders, memory_bytes: int) -> None:
        self._family, self._adapter_folders, self._memory_bytes = family, adapter_folders, memory_bytes
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
        """Names of the loaded adapters, from least to most recently used."""
        with self._lock:
            return list(self._slots)

    @property
    def nbytes(self) -> int:
        """Bytes allocated on the device, free slots included."""
        with self._lock:
            return self._stacks.slots * self._stacks.slot_bytes

    def load(self, name: str) -> None:
        """Load an adapter onto the device, if it is not there, and mark it as the most recently used.

        Args:
            name: `p<project>.v<n>/<control tag>`.

        Raises:
            NotFoundError: there is no such adapter folder.
            UnreadableError: the adapter is no plain LoRA, was trained on another base model, or has broken files.
        """
        with self._lock:
            if name in self._slots:
                self._slots.move_to_end(name)
                return
        try:
            folder = self._adapter_folders.path(name)
            # The adapter of a pipeline of families has a folder for each of them.
            part = folder / self._family.name
            adapter = self._read(part if part.is_dir() else folder)
        except (OSError, ValueError, LookupError, SafetensorError) as error:
            raise UnreadableError(
                f"the files of adapter {name} are broken ({type(error).__name__}: {error}); restore its folder in "
                f"{self._adapter_folders.root}, or retrain the project",
                is_permanent=False,
            ) from error
        with self._lock:
            if name not in self._slots:
                self._add(name, adapter)

    def effective_adapter(self, adapter: str | None, layers: Collection[str]) -> str | None:
        """Return `adapter` if it changes one of these layers; else None, since they then equal the base model's.

        Raises:
            NotFoundError, UnreadableError: as `load`.
        """
        if adapter is None:
            return None
        while (shape := self._shapes.get(adapter)) is None:
            self.load(adapter)
        return None if shape.layers.isdisjoint(layers) else adapter

    @contextmanager
    def use(self, adapters: Sequence[str | None]) -> Iterator[None]:
        """Apply `adapters[i]` to row i of every batch that the family's module computes in this context.

        The adapters are loaded if necessary, and stay on the device until the context ends.

        Args:
            adapters: one name per row; None is the base model.

        Raises:
            NotFoundError, UnreadableError: as `load`.
        """
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
        only_slot = slots[0] if len(set(slots)) == 1 else None
        return _Batch(stacks, torch.tensor(slots, device=self._family.device), only_slot)

    def _add_delta(self, name: str, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Forward hook of a layer: add (x A) B to its output.

        x is (rows, ..., in), or (rows * k, ..., in) if a tower splits each picture into k windows; the windows of
        a row then follow each other.
        """
        batch = self._batch
        if batch is None or name not in batch.stacks.layers:
            return None
        a, b = batch.stacks.layers[name]
        x: Tensor = args[0]
        if batch.only_slot is not None:
            flat = output.reshape(-1, output.shape[-1])
            return flat.addmm_(x.reshape(-1, x.shape[-1]) @ a[batch.only_slot], b[batch.only_slot]).view_as(output)
        if x.shape[0] % len(batch.index):
            raise ValueError(f"layer {name!r} got {x.shape[0]} rows where {len(batch.index)} have adapters")
        index = batch.index.repeat_interleave(x.shape[0] // len(batch.index))
        low_rank = torch.bmm(x.reshape(x.shape[0], -1, x.shape[-1]), a[index])
        return output.reshape(x.shape[0], -1, output.shape[-1]).baddbmm_(low_rank, b[index]).view_as(output)

    def _pin(self, name: str) -> None:
        """Load an adapter and keep it from being evicted. It may be evicted between the two, hence the loop."""
        is_loaded = False
        while not is_loaded:
            self.load(name)
            with self._lock:
                is_loaded = name in self._slots
                self._pins[name] += is_loaded

    @torch.inference_mode()
    def _add(self, name: str, adapter: _Adapter) -> None:
        """Put an adapter into a free slot. Evict others, or allocate other stacks, where this is necessary."""
        capacity = self._capacity(self._shape_with(adapter))
        excess = len(self._slots) + 1 - capacity
        self._evict(excess, name)
        # The evicted adapters may have been the largest, so the others may need less room now.
        shape = self._shape_with(adapter)
        capacity = self._capacity(shape)
        needed_slots = len(self._slots) + 2  # the new adapter, and slot 0
        has_room = needed_slots <= self._stacks.slots and shape | self._stacks.shape == self._stacks.shape
        if not has_room or (excess > 0 and shape != self._stacks.shape):
            preferred_slots = min(capacity + 1, max(FIRST_SLOTS, 2 * len(self._slots)))
            self._rebuild(shape, max(needed_slots, preferred_slots))
        slot = min(set(range(1, self._stacks.slots)) - set(self._slots.values()))
        self._stacks.fill(slot, adapter)
        self._slots[name], self._shapes[name] = slot, adapter.shape

    def _shape_with(self, new_adapter: _Adapter) -> _Shape:
        """The shape that has room for the loaded adapters and a new one."""
        shape = new_adapter.shape
        for loaded_shape in self._shapes.values():
            shape |= loaded_shape
        return shape

    def _capacity(self, shape: _Shape) -> int:
        """How many adapters fit into the memory limit, at least 1. Slot 0 uses memory, too."""
        layers = [self._linear(name) for name in shape.layers]
        slot_bytes = sum(
            (layer.in_features + layer.out_features) * shape.rank * self._dtype_of(layer).itemsize
            for layer in layers
        )
        return max(1, self._memory_bytes // max(1, slot_bytes) - 1)

    def _evict(self, count: int, new_name: str) -> None:
        """Remove up to `count` of the least recently used adapters that no batch is using."""
        unpinned = [name for name in self._slots if not self._pins[name]]
        for name in unpinned[: max(0, count)]:
            del self._slots[name], self._shapes[name]
            log.info("adapter %s is evicted to make room for %s", name, new_name)

    def _rebuild(self, shape: _Shape, slots: int) -> None:
        """Allocate new stacks and copy the loaded adapters into their first slots."""
        layers = {name: self._allocate(name, slots, shape.rank) for name in shape.layers}
        stacks = _Stacks(layers, shape, slots)
        for new_slot, (name, old_slot) in enumerate(self._slots.items(), 1):
            rank = self._shapes[name].rank
            old_layers = {layer: self._stacks.layers[layer] for layer in self._shapes[name].layers}
            stacks.fill(
                new_slot,
                _Adapter(
                    {layer: (a[old_slot, :, :rank], b[old_slot, :rank]) for layer, (a, b) in old_layers.items()}
                ),
            )
        self._slots = OrderedDict((name, slot) for slot, name in enumerate(self._slots, 1))
        self._stacks = stacks

    def _allocate(self, name: str, slots: int, rank: int) -> tuple[Tensor, Tensor]:
        """Zeros for one layer: A (slots, in, rank) and B (slots, rank, out)."""
        layer = self._linear(name)
        dtype, device = self._dtype_of(layer), self._family.device
        return (
            torch.zeros(slots, layer.in_features, rank, dtype=dtype, device=device),
            torch.zeros(slots, rank, layer.out_features, dtype=dtype, device=device),
        )

    def _dtype_of(self, layer: nn.Linear) -> torch.dtype:
        """The layer's own, as parts of a model may compute in float32; the family's for a quantized weight."""
        dtype = (layer.packed if isinstance(layer, PackedLinear) else layer.weight).dtype
        return dtype if dtype.is_floating_point else self._family.dtype

    def _linear(self, name: str) -> nn.Linear:
        layer = self._layers[name]
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"LoRA layer {name!r} is {type(layer).__name__}, expected nn.Linear")
        return layer

    def _read(self, folder: Path) -> _Adapter:
        """Read an adapter that PEFT saved. Raises UnreadableError if it does not fit this family's base model."""
        config = json.loads((folder / "adapter_config.json").read_text())
        check_plain_lora(config, folder)
        recorded = config.get("base_model_name_or_path")
        if recorded and model_name(recorded) != model_name(self._family.source):
            raise self._does_not_fit(config, folder, "not on")
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
                raise self._does_not_fit(config, folder, f"but its layer {name!r} does not fit")
            layers[name] = a.T, scaling * b.T
        return _Adapter(layers)

    def _does_not_fit(self, config: dict[str, Any], folder: Path, relation: str) -> UnreadableError:
        trained_on = config.get("base_model_name_or_path")
        return UnreadableError(
            f"adapter {folder.parent.name}/{folder.name} was trained on {trained_on!r}, {relation} "
            f"{self._family.source!r}; set MODEL_{self._family.name.upper()} back, or retrain the project",
            is_permanent=False,
        )


def model_name(source: str) -> str:
    """The source of a base model without what does not tell models apart: the place of a local folder."""
    name = source.removeprefix("hf-hub:").removeprefix("local-dir:")
    return Path(name).name if source.startswith("local-dir:") or Path(name).is_absolute() else name


def check_plain_lora(config: dict[str, Any], folder: Path) -> None:
    """Raise UnreadableError if an adapter is of a kind that cannot be applied."""
    special_keys = [
        key for key in ("use_dora", "alpha_pattern", "rank_pattern", "modules_to_save") if config.get(key)
    ]
    if config.get("peft_type") != "LORA" or special_keys:
        raise UnreadableError(
            f"adapter {folder.parent.name}/{folder.name} is {config.get('peft_type')} "
            f"with {special_keys or 'no extras'}; expected plain LoRA",
            is_permanent=False,
        )
