"""What weights of 8 bits lose and give (`PRECISION=int8`), next to float32, bfloat16 and other ways to 8 bits.

    python -m benchmarks.quantised                        all sets, three seeds, and the speed
    python -m benchmarks.quantised --only digits --seeds 1
    python -m benchmarks.quantised --only speed

`digits` and `tickets` are those of `benchmarks.curves`, with more test tasks: zero-shot, a head on 160
annotations, and a head on the features of a LoRA adapter that was trained in float32 and is served on the base
model in each precision. `boxes` are drawn scenes and the demo's detector. Each loss is that of the same tasks, so
that half a point can be told. `speed` is the image tower of a ViT-B-32 with random weights; other ways to 8 bits
are measured where their packages are installed (`torchao`; `onnx` and `onnxruntime`; `openvino` and `nncf`).

Figures are added to those of earlier calls in build/quantised/quantised.json. The tables are about all of them.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks import quantised_boxes, quantised_choices
from benchmarks.kept_figures import KeptFigures
from benchmarks.machine import describe
from benchmarks.quantised_loss import FLOAT32, Loss
from benchmarks.quantised_speed import Speed
from lorabel.commands.supervisor import PATIENCE
from lorabel.settings import Settings

SPEED = "speed"
NAMES = (*quantised_choices.NAMES, quantised_boxes.NAME, SPEED)
SEEDS = 3
FOLDER = Path("build/quantised")
KEPT = KeptFigures(FOLDER / "quantised.json")
LOSSES, SPEEDS = "losses", "speeds"
GOAL_POINTS = 0.5


def main() -> int:
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s %(message)s")
    options = _parse()
    torch.set_num_threads(options.threads)
    FOLDER.mkdir(parents=True, exist_ok=True)
    described = describe(Settings(device="cpu", precision="float32")).line
    for name in options.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        if name == SPEED:
            KEPT.add(SPEEDS, _speeds(options.rounds), ("name", "batch"), described)
            continue
        with TemporaryDirectory(prefix="lorabel-bench-") as folder:
            measure = quantised_boxes.measure if name == quantised_boxes.NAME else quantised_choices.measure
            losses = measure(name, options.seeds, (FLOAT32, *options.against), Path(folder))
            KEPT.add(LOSSES, map(asdict, losses), ("name", "way", "precision"), described)
    print(text())
    return 0


def _speeds(rounds: int) -> list[dict[str, Any]]:
    """Measured in a process of its own, whose threads are set as in the model server."""
    command = [sys.executable, "-m", "benchmarks.quantised_speed", str(FOLDER.absolute()), str(rounds)]
    done = subprocess.run(command, env={**os.environ, **PATIENCE}, stdout=subprocess.PIPE, check=True, text=True)
    speeds: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return speeds


def text() -> str:
    """The tables in Markdown."""
    losses = [Loss(**figure) for figure in KEPT.of(LOSSES)]
    speeds = [Speed(**figure) for figure in KEPT.of(SPEEDS)]
    return "\n\n".join([KEPT.machines(), *_loss_table(losses), *_speed_table(speeds)])


def _loss_table(losses: Sequence[Loss]) -> list[str]:
    lines = [
        "| set | what answers | precision | right | points lost (95%) | tasks with another answer | tested |",
        "|---|---|---|---|---|---|---|",
    ]
    for loss in losses:
        verdict = "" if loss.high <= GOAL_POINTS else " (not shown)" if loss.points <= GOAL_POINTS else " (missed)"
        lost = f"{loss.points:+.2f} ({loss.low:+.2f} to {loss.high:+.2f}){verdict}" if loss.is_compared else ""
        changed = "" if loss.changed is None or not loss.is_compared else f"{loss.changed:.1%}"
        lines.append(
            f"| {loss.name} | {loss.way} | {loss.precision} | {loss.right:.4f} | {lost} | {changed} "
            f"| {loss.tested} |"
        )
    return ["\n".join(lines)] if losses else []


def _speed_table(speeds: Sequence[Speed]) -> list[str]:
    lines = [
        "| ViT-B-32 | batch | ms a picture, least (median) | ms of CPU | weights, MB | error of features |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {speed.name} | {speed.batch} | {speed.least_ms:.1f} ({speed.median_ms:.1f}) | {speed.cpu_ms:.1f} "
        f"| {speed.weights_mb:.0f} | {speed.error:.4f} |"
        for speed in speeds
    ]
    return ["\n".join(lines)] if speeds else []


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantised",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="what is measured")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of what is annotated")
    parser.add_argument(
        "--against",
        nargs="+",
        choices=("bfloat16", "int8"),
        default=("int8",),
        help="precisions of what is served",
    )
    parser.add_argument("--rounds", type=int, default=10, help="of the speed")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
