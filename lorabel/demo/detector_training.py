"""What the trainings of the demo's and the tests' detectors share: options, the loop over steps, and saving."""

import argparse
import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

STEPS_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Options:
    """Options of one training.

    Attributes:
        minutes: duration of the training in CPU time, which is that of the clock with OMP_NUM_THREADS=1 on an
            idle machine. Drawing the scenes comes before it.
        scenes: how many are drawn in each size; for the captioner, in all sizes together.
        start: folder of a model whose training is continued; None for a new model.
    """

    out: Path
    minutes: float
    seed: int
    scenes: int
    learning_rate: float
    start: Path | None


def read_options(description: str | None, *, minutes: float, scenes: int, learning_rate: float) -> Options:
    """Read the options from the command line; the arguments are their defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=scenes)
    parser.add_argument("--learning-rate", type=float, default=learning_rate)
    parser.add_argument("--start", type=Path)
    return Options(**vars(parser.parse_args()))


def schedule(share_done: float) -> float:
    """Factor on the learning rate: a rise in the first thirtieth of the time, then a cosine down to almost 0."""
    return min(1.0, share_done / 0.03 + 0.02) * (0.01 + 0.99 * (1 + math.cos(math.pi * min(share_done, 1.0))) / 2)


def optimizer_for(model: nn.Module, learning_rate: float) -> torch.optim.AdamW:
    """Return an optimizer with weight decay on matrices only."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))


def take_steps(options: Options, model: nn.Module, take_step: Callable[[int, float], Mapping[str, float]]) -> None:
    """Take steps for `options.minutes`. Prints mean losses and saves the weights after every STEPS_SHOWN steps.

    Args:
        take_step: gets the number of the step, from 1, and the share of the time that has passed. Returns the
            losses by name.
    """
    started = time.process_time()
    recent: list[Mapping[str, float]] = []
    for step in itertools.count(1):
        share_done = (time.process_time() - started) / (60 * options.minutes)
        recent.append(take_step(step, share_done))
        if step % STEPS_SHOWN == 0 or share_done >= 1:
            means = {name: round(float(np.mean([losses[name] for losses in recent])), 4) for name in recent[0]}
            print(f"step {step} at {share_done:.0%}: {means}", flush=True)
            recent = []
            save(model, options.out)
        if share_done >= 1:
            return


def save(model: nn.Module, out: Path) -> None:
    """Write the weights as float16, which halves the file. The file is replaced atomically.

    Tied weights are written once, as transformers does.
    """
    weights: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in model.state_dict().items():
        if value.data_ptr() not in seen or value.numel() < 2:
            weights[name] = value.detach().half().contiguous() if value.is_floating_point() else value
        seen.add(value.data_ptr())
    partial = out / "model.partial"
    save_file(weights, partial, metadata={"format": "pt"})
    partial.chmod(0o644)
    partial.replace(out / "model.safetensors")
