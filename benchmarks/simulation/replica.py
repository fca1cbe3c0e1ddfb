"""A simulated replica of the model server, with the real queue of rows and the real bank of adapters."""

import json
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import simpy
import torch
from cachetools import LRUCache
from safetensors.torch import save_file
from simpy.events import Event
from torch import nn

from benchmarks.simulation.costs import Costs
from benchmarks.simulation.stations import Station, Steps
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.families.base import Family
from lorabel.inference.messages import Priority
from model_server.adapter_files import PREFIX
from model_server.adapters import AdapterBank
from model_server.fair_queue import FairQueue

MAX_BATCH = 64
# A task's features in FEATURES_MEMORY_MB=256: 512 numbers of bfloat16, and the keys.
FEATURES_KEPT = 200_000
SOURCE = "local-dir:/simulated"


@dataclass
class SimulatedRow:
    """A row on its way to the device. `done` succeeds when it is computed."""

    priority: Priority
    project: int
    adapter: str | None
    done: Event


class TinyFamily:
    """What the bank needs of a family: a model with one weight, so that an adapter has two."""

    def __init__(self) -> None:
        self.module = nn.Sequential(nn.Linear(1, 1))
        self.device, self.dtype, self.name, self.source = torch.device("cpu"), torch.float32, "tiny", SOURCE

    def lora_layers(self) -> list[str]:
        return ["0"]


class SimulatedBank(AdapterBank):
    """The real bank, which reads the files of an adapter once only: all adapters have the same."""

    _adapter: Any = None

    def _read(self, folder: Path) -> Any:
        if self._adapter is None:
            self._adapter = super()._read(folder)
        return self._adapter


Answer = Generator[Event, Any, tuple[bool, bool]]
SLOT_BYTES = 2 * torch.float32.itemsize


@contextmanager
def adapter_folders() -> Iterator[AdapterFolders]:
    """Folders of adapters, of which all are the same files."""
    with tempfile.TemporaryDirectory(prefix="lorabel-simulation-") as folder:
        config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": SOURCE}
        (Path(folder) / "adapter_config.json").write_text(json.dumps(config))
        weights = {f"{PREFIX}0.lora_{part}.weight": torch.zeros(1, 1) for part in "AB"}
        save_file(weights, Path(folder) / "adapter_model.safetensors")
        yield cast(AdapterFolders, SimpleNamespace(path=lambda _: Path(folder), root=folder))


class SimulatedReplica:
    """A process that owns a device.

    Rows go through its process, which does one thing at a time (the GIL), then through the cores that decode, then
    wait for the device. The real `FairQueue` forms the batches, and the real `AdapterBank` says which adapters are
    loaded.

    Args:
        name: as in the order of replicas.
        folders: from `adapter_folders`.
        adapters_held: how many adapters ADAPTER_MEMORY_MB has room for.
        cores: that decode (REPLICA_CPUS).
    """

    def __init__(
        self,
        env: simpy.Environment,
        name: str,
        costs: Costs,
        folders: AdapterFolders,
        adapters_held: int,
        cores: int = 4,
    ) -> None:
        self.env, self.name, self.costs = env, name, costs
        self.process, self.cores = Station(env), Station(env, cores)
        self.ongoing = 0
        self.device_busy_s, self.rows, self.batches, self.cold, self.warm = 0.0, 0, 0, 0, 0
        self.features: LRUCache[tuple[int, str | None, int], bool] = LRUCache(FEATURES_KEPT)
        self.bank = SimulatedBank(cast(Family, TinyFamily()), folders, (adapters_held + 1) * SLOT_BYTES)
        self._queue: FairQueue[SimulatedRow] = FairQueue()
        self._is_computing = False

    def answer(self, project: int, adapter: str | None, tasks: Sequence[int], priority: Priority) -> Answer:
        """Answer a request for tasks of a project. A generator of SimPy's events.

        Returns:
            Whether an adapter had to be loaded, and whether all features were remembered.
        """
        is_cold = adapter is not None and not self.load(adapter)
        if is_cold:
            yield self.env.timeout(self.costs.cold_adapter_s)
        keys = [(project, adapter, task) for task in tasks]
        new = [key for key in keys if key not in self.features]
        known = len(keys) - len(new)
        yield self.process.visit(self.costs.replica_cached_s * known + self.costs.replica_row_s * len(new))
        if new:
            yield self.env.timeout(self.costs.fetch_s)
            yield self.env.all_of([self._compute(project, adapter, priority) for _ in new])
        for key in keys:
            self.features[key] = True
        return is_cold, not new

    def load(self, adapter: str) -> bool:
        """Load an adapter, as the prepare stage and /v1/preload do. Returns whether it was loaded already."""
        is_loaded = adapter in self.bank.names
        self.bank.load(adapter)
        self.warm += is_loaded
        self.cold += not is_loaded
        return is_loaded

    def _compute(self, project: int, adapter: str | None, priority: Priority) -> Event:
        row = SimulatedRow(priority, project, adapter, self.env.event())
        self.cores.visit(self.costs.prepare_s).callbacks.append(lambda _: self._enqueue(row))
        return row.done

    def _enqueue(self, row: SimulatedRow) -> None:
        self._queue.put(row)
        if not self._is_computing:
            self._is_computing = True
            self.env.process(self._run_device())

    def _run_device(self) -> Steps:
        while batch := self._queue.get_batch(lambda _: MAX_BATCH, lambda _: "tiny", lambda _: 1, is_patient=False):
            with self.bank.use([row.adapter for row in batch]):
                batch_s = self.costs.batch_s + self.costs.row_s * len(batch)
                self.device_busy_s += batch_s
                self.rows += len(batch)
                self.batches += 1
                yield self.env.timeout(batch_s)
            for row in batch:
                row.done.succeed()
        self._is_computing = False
