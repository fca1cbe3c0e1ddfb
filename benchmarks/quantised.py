"""Weights of 8 bits on a CPU beside float32 and bfloat16: accuracy, memory and speed, in one table.

    python -m benchmarks.quantised

- Accuracy in percent: heads that are fitted to 320 annotations on features of the same precision, on test tasks
  that were never annotated, mean over five orders of the annotations; for boxes the mAP at an IoU of 0.5 of the
  demo's detector on 60 drawn scenes that it was not trained on.
- Memory: of a process that has loaded a ViT-B-32 of open_clip and has computed a batch of 16 pictures.
- Speed: the image tower of this ViT-B-32, 16 pictures on one core. Each round measures every way once.

The ways to compute in 8 bits are in `benchmarks/int8_layers.py`. They are measured here and not served, see
docs/decisions/0072-mixed-adapters-in-runs.md.
"""

import argparse
import gc
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import curve_features, int8_layers
from benchmarks.curve_courses import Course, digits, tickets
from benchmarks.curve_features import Part
from benchmarks.models import vit_b_32
from benchmarks.resident_memory import ResidentMemory
from lorabel.demo import DETECTOR_FOLDER
from lorabel.demo.evaluate_detector import NAMES, SCENES, SEED, predict
from lorabel.demo.scenes import random_scenes
from lorabel.evaluation.box_metrics import boxes
from lorabel.families.detector import Detector
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.heads.fit_choices import fit_choices
from lorabel.families.encoders.heads.linear_head import probabilities
from lorabel.families.loading import family_types, load_family
from lorabel.settings import Settings
from lorabel.space_contracts import BoxTarget
from workers.services import Services

Quantise = Callable[[nn.Module, Collection[str]], None]

ANNOTATIONS, ORDERS, PICTURES = 320, 5, 16
FOLDER = Path("build/bench/models")


@dataclass(frozen=True)
class Way:
    """A precision of weights and activations, and what then quantises the linear layers."""

    precision: str
    quantise: Quantise | None = None

    def settings(self, models: Mapping[str, str]) -> Settings:
        return Settings(models=dict(models), precision=self.precision, device="cpu")  # type: ignore[arg-type]

    def apply(self, module: nn.Module, names: Collection[str]) -> None:
        if self.quantise is not None:
            self.quantise(module, names)


WAYS: Mapping[str, Way] = MappingProxyType(
    {
        "float32": Way("float32"),
        "bfloat16": Way("bfloat16"),
        "int8, dynamic, float32 beside": Way("float32", int8_layers.use_dynamic),
        "int8, pointwise, bfloat16 beside": Way("bfloat16", int8_layers.use_pointwise),
        "int8, torchao, bfloat16 beside": Way("bfloat16", int8_layers.use_torchao),
    }
)


def main() -> int:
    """Print the table, or, for a process of its own, the accuracies or the memory of one way as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantised",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=15, help="of the speed; 15")
    parser.add_argument("--accuracy-of", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--memory-of", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.accuracy_of:
        print(json.dumps(_accuracies(WAYS[options.accuracy_of])))
    elif options.memory_of:
        print(json.dumps(_memory_mb(WAYS[options.memory_of])))
    else:
        _print_table(options.rounds)
    return 0


def _print_table(rounds: int) -> None:
    names = [name for name in WAYS if "torchao" not in name or importlib.util.find_spec("torchao")]
    rates = _rates(names, rounds)
    print("| weights | pictures/s | of bfloat16 | MB | digits | tickets | boxes |\n|---|---|---|---|---|---|---|")
    for name in names:
        accuracies, memory_mb = _in_a_process("--accuracy-of", name), _in_a_process("--memory-of", name)
        pairs = zip(rates[name], rates["bfloat16"], strict=True)
        share = statistics.median(rate / of_bfloat16 for rate, of_bfloat16 in pairs)
        shown = " | ".join(f"{100 * accuracies[subject]:.2f}" for subject in ("digits", "tickets", "boxes"))
        rate = statistics.median(rates[name])
        print(f"| {name} | {rate:.1f} | {share:.2f} | {memory_mb:.0f} | {shown} |", flush=True)


def _in_a_process(option: str, name: str) -> Any:
    command = [sys.executable, "-m", "benchmarks.quantised", option, name]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def _vit(way: Way) -> DualEncoder:
    family = load_family(DualEncoder, way.settings({"dual_encoder": vit_b_32(FOLDER)}))
    assert isinstance(family, DualEncoder)
    way.apply(family.module, family.tower_layers())
    return family


@torch.inference_mode()
def _rates(names: Collection[str], rounds: int) -> dict[str, list[float]]:
    """Pictures a second in each round."""
    families = {name: _vit(WAYS[name]) for name in names}
    rates: dict[str, list[float]] = {name: [] for name in names}
    pixels = torch.randn(PICTURES, 3, 224, 224)
    for measured_round in range(rounds + 1):
        for name, family in families.items():
            given = pixels.to(family.dtype)
            began = time.perf_counter()
            family.module.encode_image(given)  # type: ignore[operator]
            if measured_round:  # the first warms up
                rates[name].append(PICTURES / (time.perf_counter() - began))
    return rates


@torch.inference_mode()
def _memory_mb(way: Way) -> float:
    family = _vit(way)
    family.module.encode_image(torch.randn(PICTURES, 3, 224, 224).to(family.dtype))  # type: ignore[operator]
    gc.collect()
    return ResidentMemory(os.getpid()).now_mb


def _accuracies(way: Way) -> dict[str, float]:
    return {"digits": _accuracy(way, digits()), "tickets": _accuracy(way, tickets()), "boxes": _map_50(way)}


def _accuracy(way: Way, course: Course) -> float:
    """Of heads, on the test tasks."""
    with TemporaryDirectory() as folder:
        settings = way.settings(course.models).model_copy(update={"data_dir": Path(folder)})
        (name,) = course.models
        family_type = next(each for each in family_types() if each.name == name)
        family = load_family(family_type, settings)
        way.apply(family.module, family.lora_layers())
        services = Services.open(settings)
        try:
            tasks, test = curve_features.compute(replace(services, _families={family_type: family}), course)
        finally:
            services.close()
    orders = [course.order(seed)[:ANNOTATIONS] for seed in range(ORDERS)]
    return statistics.mean(_right_share(tasks[order], test) for order in orders)


def _right_share(learned: Part, test: Part) -> float:
    shares = np.eye(learned.zero_shot.shape[1], dtype=np.float32)[learned.classes]
    head = fit_choices(learned.features, learned.zero_shot, shares)
    answers = probabilities(head, test.features, test.zero_shot)
    return float((answers.argmax(1) == test.classes).mean())


@torch.inference_mode()
def _map_50(way: Way) -> float:
    family = load_family(Detector, way.settings({"detector": f"local-dir:{DETECTOR_FOLDER}"}))
    assert isinstance(family, Detector)
    way.apply(family.module, family.lora_layers())
    scenes = list(itertools.islice(random_scenes(SEED), SCENES))
    targets = [
        BoxTarget(tuple((thing.corners, NAMES.index(f"{thing.colour} {thing.shape}")) for thing in scene.things))
        for scene in scenes
    ]
    return boxes(targets, predict(family, scenes, NAMES), NAMES).values["map_50"]


if __name__ == "__main__":
    sys.exit(main())
