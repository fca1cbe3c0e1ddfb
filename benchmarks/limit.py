"""Measures the limit: how fast the model is on this device in a plain loop.

    python -m benchmarks.limit --family dual_encoder --model local-dir:FOLDER --device cpu --seconds 10

Plain open_clip or transformers (`benchmarks/loop_models.py`) on JPEGs in memory, in a loop without a queue,
network or protocol. Decoding overlaps in threads. Precision, batch size, whether libjpeg decodes at a reduced
scale, and whether each core computes pictures of its own are tried first; the best setup is measured. Prints
JSON. This is a process of its own, so that torch's threads are set as in the model server.
"""

import argparse
import io
import json
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.loop_models import MODELS, LoopModel
from benchmarks.photos import Photos
from benchmarks.rates import Request, tasks_per_second
from lorabel.families.core_threads import parts_on_all_cores

BATCHES_AHEAD = 2
SHARE_OF_TRIAL = 0.1
TURNS = 2
# Batch sizes by family and device; precisions and decoding are compared with the first.
BATCHES: dict[str, dict[str, tuple[int, ...]]] = {
    "dual_encoder": {"cpu": (16, 8, 32, 64), "cuda": (128, 64, 256, 512)},
    "detector": {"cpu": (4, 2, 8), "cuda": (32, 16, 64, 128)},
}
LEAST_BATCHES = 3
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Setup:
    """What the loop may choose.

    Attributes:
        is_scaled: libjpeg decodes at 1/2, 1/4 or 1/8 if the model's input is that much smaller than the JPEG.
        is_divided: each core computes pictures of its own, instead of all cores sharing each layer.
    """

    precision: str
    batch: int
    is_scaled: bool
    is_divided: bool = False

    @property
    def name(self) -> str:
        divided = ", each core its own" if self.is_divided else ""
        return f"{self.precision}, batch {self.batch}, {'scaled' if self.is_scaled else 'full'} decoding{divided}"


class Loop:
    """A model, and JPEGs whose numbers count up so that no photograph is read twice.

    Args:
        device: cpu or cuda.
    """

    def __init__(self, model: LoopModel, device: str) -> None:
        self._model, self.has_cores = model, device == "cpu"
        self._photos, self._number = Photos(), 0

    def measure(self, setup: Setup, seconds: float) -> list[float]:
        """Images per second in each window, decoding included."""
        self._model.cast(getattr(torch, setup.precision))
        began = time.perf_counter()
        done: list[Request] = []
        with ThreadPoolExecutor(os.cpu_count()) as threads, torch.inference_mode():
            batches = self._decoded(setup, threads)
            until = began + seconds
            while (start := time.perf_counter()) < until or len(done) < LEAST_BATCHES:
                self._answer(torch.stack([pixels.result() for pixels in next(batches)]), setup)
                done.append(Request(start, time.perf_counter(), setup.batch))
            threads.shutdown(cancel_futures=True)
        return _windows(done)

    def measure_forward(self, setup: Setup, seconds: float) -> list[float]:
        """Images per second of the forward pass alone in each window, on random pixels."""
        self._model.cast(getattr(torch, setup.precision))
        pixels = torch.randn(setup.batch, 3, self._model.side_px, self._model.side_px)
        done: list[Request] = []
        until = time.perf_counter() + seconds
        with torch.inference_mode():
            while (start := time.perf_counter()) < until or len(done) < LEAST_BATCHES:
                self._answer(pixels, setup)
                done.append(Request(start, time.perf_counter(), setup.batch))
        return _windows(done)

    def _answer(self, pixels: Tensor, setup: Setup) -> None:
        if setup.is_divided:
            parts_on_all_cores(self._model.answer, pixels, torch.device("cpu"))
        else:
            self._model.answer(pixels)

    def _decoded(self, setup: Setup, threads: ThreadPoolExecutor) -> Iterator[list[Future[Tensor]]]:
        """Endless batches. The next BATCHES_AHEAD batches are decoded in the threads meanwhile."""
        ahead: deque[list[Future[Tensor]]] = deque()
        while True:
            while len(ahead) <= BATCHES_AHEAD:
                numbers = range(self._number, self._number + setup.batch)
                self._number += setup.batch
                ahead.append([threads.submit(self._decode, number, setup.is_scaled) for number in numbers])
            yield ahead.popleft()

    def _decode(self, number: int, is_scaled: bool) -> Tensor:
        image = Image.open(io.BytesIO(self._photos[number]))
        if is_scaled:
            image.draft("RGB", (self._model.side_px, self._model.side_px))
        return self._model.read(image.convert("RGB"))


def _windows(done: Sequence[Request]) -> list[float]:
    """Images per second in each window, without the first batch, which warmed up."""
    return tasks_per_second(done, done[0].ended_s, done[-1].ended_s)


def find_best(
    loop: Loop, batches: Sequence[int], seconds: float, is_quick: bool
) -> tuple[Setup, dict[str, float]]:
    """Try precisions and decoding with the first batch size, then batch sizes and division with the best of them.

    Returns:
        The fastest setup, and the best rate of each setup by name.
    """
    first, *others = batches
    names = [str(dtype).removeprefix("torch.") for dtype in DTYPES]
    tried = _compare(
        loop, [Setup(name, first, is_scaled) for name in names for is_scaled in (False, True)], seconds
    )
    best = max(tried, key=lambda setup: tried[setup])
    sizes = (first,) if is_quick else (first, *others)
    divisions = (False, True) if loop.has_cores else (False,)
    tried |= _compare(
        loop,
        [replace(best, batch=size, is_divided=is_divided) for size in sizes for is_divided in divisions],
        seconds,
    )
    return max(tried, key=lambda setup: tried[setup]), {setup.name: rate for setup, rate in tried.items()}


def _compare(loop: Loop, setups: Sequence[Setup], seconds: float) -> dict[Setup, float]:
    """The best rate of each setup in TURNS turns, so that other work on the machine does not decide."""
    turns = [{setup: max(loop.measure(setup, seconds)) for setup in setups} for _ in range(TURNS)]
    return {setup: max(turn[setup] for turn in turns) for setup in setups}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--family", required=True, choices=MODELS)
    parser.add_argument("--device", required=True, choices=("cpu", "cuda"))
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--quick", action="store_true", help="try one batch size only")
    parser.add_argument("--setup", type=json.loads, help="measure this setup, in the JSON that was printed")
    options = parser.parse_args()
    loop = Loop(MODELS[options.family](options.model, torch.device(options.device)), options.device)
    figures: dict[str, Any] = {}
    if options.setup is None:
        trial_s = options.seconds * SHARE_OF_TRIAL
        best, figures["tried"] = find_best(loop, BATCHES[options.family][options.device], trial_s, options.quick)
    else:
        best = Setup(**options.setup)
    figures["setup"] = asdict(best)
    figures["images_per_second"] = loop.measure(best, options.seconds)
    figures["forward_per_second"] = loop.measure_forward(best, options.seconds / 2)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
