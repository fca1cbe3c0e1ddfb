"""How fast the image tower of a ViT-B-32 is with weights of 8 bits, and what they take; a process of its own.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.quantised_speed FOLDER ROUNDS

Prints JSON. Each round measures every contestant once, so that other work on the machine affects all alike. Those
that are served compute as in the model server: each core some of the pictures.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import models, quantised_others
from benchmarks.quantised_others import Contestant
from lorabel.families.core_threads import on_all_cores
from lorabel.families.device import choose_precision
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.int8_layers import Int8Linear
from lorabel.families.packed_layers import PackedLinear, PackedPatches
from lorabel.families.served import load_served
from lorabel.settings import Settings

BATCHES = (1, 32)
MEGABYTE = 10**6
CPU = torch.device("cpu")
# Of an output of `Int8Linear`: its scale, its zero and the sum of its weights.
BYTES_BESIDE = 12
# Times the first contestant.
TOO_SLOW = 5


@dataclass(frozen=True)
class Speed:
    """Milliseconds for each picture of a batch.

    Args:
        weights_mb: of the image tower.
        error: of the features, relative to those of float32.
    """

    name: str
    batch: int
    least_ms: float
    median_ms: float
    cpu_ms: float
    weights_mb: float
    error: float


def main() -> None:
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
    source = models.vit_b_32(folder)
    torch.manual_seed(0)
    pictures = torch.randn(max(BATCHES), 3, 224, 224)
    with torch.inference_mode():
        plain = _load(source, "float32")
        truth = plain(pictures)
        contestants = list(_served(source))
    with torch.no_grad():
        contestants += quantised_others.installed(_tower(source, "float32"), pictures, folder)
    print(json.dumps([asdict(speed) for speed in _measure(contestants, pictures, truth, rounds)]))


def _load(source: str, precision: str) -> Callable[[Tensor], Tensor]:
    tower = _tower(source, precision)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32

    def forward(pictures: Tensor) -> Tensor:
        with torch.inference_mode():
            return on_all_cores(tower, pictures.to(dtype), CPU).float()

    return forward


def _tower(source: str, precision: str) -> nn.Module:
    """The image tower as it is served."""
    settings = Settings(models={"dual_encoder": source}, device="cpu", precision=precision)
    family = load_served(DualEncoder, settings)
    return family.module.get_submodule("visual")


def _served(source: str) -> Iterator[Contestant]:
    # Without arithmetic in bfloat16, a batch takes half a minute.
    has_bfloat16 = choose_precision(Settings(device="cpu"), CPU) == torch.bfloat16
    for precision in ("float32", "bfloat16", "int8") if has_bfloat16 else ("float32", "int8"):
        size = sum(map(_nbytes, _tower(source, precision).modules()))
        yield Contestant(f"PRECISION={precision}", _load(source, precision), size)


def _nbytes(module: nn.Module) -> int:
    """Bytes of what a module keeps itself, without those of modules in it."""
    kept = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    size = sum(tensor.nbytes for tensor in kept)
    if isinstance(module, PackedLinear | PackedPatches):
        return size + module.packed.numel() * module.packed.element_size()
    if isinstance(module, Int8Linear):
        return size + module.out_features * (module.in_features + BYTES_BESIDE)
    return size


def _measure(contestants: list[Contestant], pictures: Tensor, truth: Tensor, rounds: int) -> Iterator[Speed]:
    """A contestant that was much slower than the first is measured with the smallest batch alone."""
    for batch in BATCHES:
        some = pictures[:batch]
        walls: dict[str, list[float]] = {each.name: [] for each in contestants}
        cpus: dict[str, list[float]] = {each.name: [] for each in contestants}
        for _ in range(rounds + 1):
            for each in contestants:
                began, began_cpu = time.perf_counter(), time.process_time()
                each.forward(some)
                walls[each.name].append(1000 * (time.perf_counter() - began) / batch)
                cpus[each.name].append(1000 * (time.process_time() - began_cpu) / batch)
        for each in contestants:
            features = each.forward(some)
            error = float((features - truth[:batch]).norm() / truth[:batch].norm())
            # The first round warms up.
            wall, cpu = walls[each.name][1:], cpus[each.name][1:]
            yield Speed(
                each.name, batch, min(wall), statistics.median(wall), min(cpu), each.nbytes / MEGABYTE, error
            )
        slowest = TOO_SLOW * min(walls[contestants[0].name][1:])
        contestants = [each for each in contestants if min(walls[each.name][1:]) < slowest]


if __name__ == "__main__":
    main()
