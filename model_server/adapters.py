"""LoRA adapters on the device. PEFT trains and saves them; this module only loads and applies them.

Rows of one batch may use different adapters. A layer with LoRA adds (x A) B to its output, with A and B of the
row's adapter (https://arxiv.org/abs/2106.09685). A and B of all adapters are stacked; `model_server/low_rank.py`
multiplies with those of each row. Kinds of adapters that scale outputs, too, have stacks of the scales in their
layers; `model_server/adapter_files.py` says which kinds there are.
"""

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import UnreadableError
from lorabel.families.base import Family
from lorabel.families.int8_layers import Int8Linear
from lorabel.families.packed_layers import PackedLinear
from model_server.adapter_files import (
    LayerChange,
    UnfitLayerError,
    adapter_name,
    model_name,
    read_changes,
    read_config,
)
from model_server.low_rank import RowSlots, add_low_rank, scale_output

log = logging.getLogger(__name__)

FIRST_SLOTS = 8


@dataclass(frozen=True)
class _Adapter:
    """What an adapter changes in each layer, on the CPU."""

    layers: dict[str, LayerChange]

    @property
    def shape(self) -> "_Shape":
        return _Shape(
            frozenset(name for name, change in self.layers.items() if change.rank),
            frozenset(name for name, change in self.layers.items() if change.scale is not None),
            max((change.rank for change in self.layers.values()), default=0),
        )


@dataclass(frozen=True)
class _Shape:
    """What stacks have room for: A and B of `rank` in `layers`, and scales of outputs in `scaled_layers`."""

    layers: frozenset[str] = frozenset()
    scaled_layers: frozenset[str] = frozenset()
    rank: int = 0

    def __or__(self, other: "_Shape") -> "_Shape":
        """The smallest shape that has room for both."""
        return _Shape(
            self.layers | other.layers, self.scaled_layers | other.scaled_layers, max(self.rank, other.rank)
        )


@dataclass(frozen=True)
class _Stacks:
    """A (slots, in, rank) and B (slots, rank, out) of each layer; lower ranks are padded with zeros.

    In memory both lie transposed, as PEFT has them: the products of a CPU are faster so. `scales` has gain and
    shift (slots, 2, out) of the layers whose outputs an adapter scales.

    Slot 0 stays zero and stands for the base model. A batch keeps the stacks with which it began, so larger
    stacks may replace them while the batch is computed.
    """

    layers: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    scales: dict[str, Tensor] = field(default_factory=dict)
    shape: _Shape = _Shape()
    slots: int = 0

    @property
    def slot_bytes(self) -> int:
        low_rank = sum(a[0].nbytes + b[0].nbytes for a, b in self.layers.values())
        return low_rank + sum(scale[0].nbytes for scale in self.scales.values())

    def fill(self, slot: int, adapter: _Adapter) -> None:
        """Copy an adapter into a slot; layers that the adapter lacks become zero there."""
        for name, (a, b) in self.layers.items():
            a[slot].zero_()
            b[slot].zero_()
            if name in adapter.layers and (rank := adapter.layers[name].rank):
                a[slot, :, :rank].copy_(adapter.layers[name].a)
                b[slot, :rank].copy_(adapter.layers[name].b)
        for name, scale in self.scales.items():
            scale[slot].zero_()
            change = adapter.layers.get(name)
            if change is not None and change.scale is not None:
                scale[slot].copy_(change.scale)

    def adapter(self, slot: int, shape: _Shape) -> _Adapter:
        """Return what is in a slot, as far as an adapter of this shape changes it."""
        changes = {}
        for name in shape.layers | shape.scaled_layers:
            scale = self.scales[name][slot] if name in shape.scaled_layers else None
            if name in shape.layers:
                a, b = self.layers[name]
                changes[name] = LayerChange(a[slot, :, : shape.rank], b[slot, : shape.rank], scale)
            elif scale is not None:
                changes[name] = LayerChange(scale[:0], scale[:0], scale)
        return _Adapter(changes)


@dataclass(frozen=True)
class _Batch:
    """The adapters of a batch, the layers that any of them changes, and the highest of their ranks."""

    stacks: _Stacks
    row_slots: RowSlots
    shape: _Shape


class AdapterBank:
    """The adapters of one family that are on the device; the least recently used ones are evicted.

    Thread-safe, also while batches are computed. `use` holds for the forward passes of the thread that calls it,
    and of those to which `lorabel.families.core_threads` gives parts of a batch.

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
        self._batch: ContextVar[_Batch | None] = ContextVar("batch", default=None)
        modules = dict(family.module.named_modules())
        self._layers = {name: modules[name] for name in family.lora_layers()}
        for name, layer in self._layers.items():
            layer.register_forward_hook(partial(self._change_output, name))

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
            UnreadableError: the adapter is of a kind that cannot be applied, was trained on another base model, or
                has broken files.
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
        return None if (shape.layers | shape.scaled_layers).isdisjoint(layers) else adapter

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
        outer_batch = self._batch.set(None)
        try:
            for name in {name for name in adapters if name is not None}:
                self._pin(name)
                pinned.append(name)
            if pinned:
                self._batch.set(self._index(adapters))
            yield
        finally:
            self._batch.reset(outer_batch)
            with self._lock:
                self._pins -= Counter(pinned)

    def _index(self, adapters: Sequence[str | None]) -> _Batch:
        with self._lock:
            stacks = self._stacks
            slots = [0 if name is None else self._slots[name] for name in adapters]
            shape = _Shape()
            for name in set(adapters):
                shape |= shape if name is None else self._shapes[name]
        return _Batch(stacks, RowSlots.of(slots, self._family.device), shape)

    def _change_output(self, name: str, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Forward hook of a layer: scale its output y by gain and shift, and add (x A) B.

        x is (rows, ..., in), or (rows * k, ..., in) if a tower splits each picture into k windows; the windows of
        a row then follow each other.
        """
        batch = self._batch.get()
        if batch is None:
            return None
        if name in batch.shape.scaled_layers:
            output = scale_output(output, batch.stacks.scales[name], batch.row_slots)
        if name in batch.shape.layers:
            a, b = batch.stacks.layers[name]
            rank = batch.shape.rank
            output = add_low_rank(output, args[0], a[:, :, :rank].mT, b[:, :rank].mT, batch.row_slots)
        return output

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
        slot_bytes = 0
        for name in shape.layers:
            layer = self._linear(name)
            slot_bytes += (layer.in_features + layer.out_features) * shape.rank * self._dtype_of(layer).itemsize
        for name in shape.scaled_layers:
            layer = self._linear(name)
            slot_bytes += 2 * layer.out_features * self._dtype_of(layer).itemsize
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
        scales = {name: self._allocate_scales(name, slots) for name in shape.scaled_layers}
        stacks = _Stacks(layers, scales, shape, slots)
        for new_slot, (name, old_slot) in enumerate(self._slots.items(), 1):
            stacks.fill(new_slot, self._stacks.adapter(old_slot, self._shapes[name]))
        self._slots = OrderedDict((name, slot) for slot, name in enumerate(self._slots, 1))
        self._stacks = stacks

    def _allocate(self, name: str, slots: int, rank: int) -> tuple[Tensor, Tensor]:
        """Zeros for one layer: A (slots, in, rank) and B (slots, rank, out)."""
        layer = self._linear(name)
        dtype, device = self._dtype_of(layer), self._family.device
        return (
            torch.zeros(slots, rank, layer.in_features, dtype=dtype, device=device).mT,
            torch.zeros(slots, layer.out_features, rank, dtype=dtype, device=device).mT,
        )

    def _allocate_scales(self, name: str, slots: int) -> Tensor:
        """Zeros for one layer: gain and shift (slots, 2, out)."""
        layer = self._linear(name)
        return torch.zeros(slots, 2, layer.out_features, dtype=self._dtype_of(layer), device=self._family.device)

    def _dtype_of(self, layer: nn.Linear) -> torch.dtype:
        """The layer's own, as parts of a model may compute in float32; the family's for a quantized weight."""
        if isinstance(layer, Int8Linear):
            return self._family.dtype
        dtype = (layer.packed if isinstance(layer, PackedLinear) else layer.weight).dtype
        return dtype if dtype.is_floating_point else self._family.dtype

    def _linear(self, name: str) -> nn.Linear:
        layer = self._layers[name]
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"LoRA layer {name!r} is {type(layer).__name__}, expected nn.Linear")
        return layer

    @torch.inference_mode()
    def _read(self, folder: Path) -> _Adapter:
        """Read an adapter that PEFT saved. Raises UnreadableError if it does not fit this family's base model."""
        config = read_config(folder)
        recorded = config.get("base_model_name_or_path")
        if recorded and model_name(recorded) != model_name(self._family.source):
            raise self._does_not_fit(config, folder, "not on")
        try:
            return _Adapter(read_changes(folder, config, self._layers))
        except UnfitLayerError as error:
            raise self._does_not_fit(config, folder, str(error)) from error

    def _does_not_fit(self, config: dict[str, Any], folder: Path, relation: str) -> UnreadableError:
        trained_on = config.get("base_model_name_or_path")
        return UnreadableError(
            f"adapter {adapter_name(folder)} was trained on {trained_on!r}, {relation} "
            f"{self._family.source!r}; set MODEL_{self._family.name.upper()} back, or retrain the project",
            is_permanent=False,
        )
