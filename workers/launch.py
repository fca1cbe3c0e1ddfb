"""Runs the training loop in TRAIN_PROCESSES processes, one per GPU; with 1, in this process.

accelerate's launcher (https://huggingface.co/docs/accelerate/basic_tutorials/launch) starts
`workers/launched.py` on this machine. The processes share each batch and arrive at the same adapter as one process
would. They exchange files with this worker in a private folder: this worker writes a plan and the adapter to start
from; they write progress and the trained adapter.

The launcher puts each process into a session of its own, so a signal to its group does not reach them. Instead
they end when a pipe closes. This worker holds it open until the run ends; it closes too if this worker is killed.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft import PeftModel

from lorabel.errors import LorabelError, SettingsError
from lorabel.families.base import Family
from lorabel.settings import Settings
from workers import lora, private_training
from workers.examples import PreparedExample

log = logging.getLogger(__name__)

# Files and folders of the private folder.
PLAN, START_ADAPTER, PROGRESS, RESULT, ALIVE = "plan.pt", "start_adapter", "progress.jsonl", "result", "alive"
POLL_S = 0.2
STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class LaunchPlan:
    """The arguments of `lora.fine_tune` for the processes; `family` is the family's name."""

    settings: Settings
    family: str
    examples: list[PreparedExample]
    recipe: lora.Recipe


def fine_tune(
    settings: Settings,
    family: Family,
    model: PeftModel,
    examples: Sequence[PreparedExample],
    recipe: lora.Recipe,
    on_step: Callable[[lora.Progress], None],
) -> float:
    """`lora.fine_tune` in TRAIN_PROCESSES processes, but never more than a batch has examples. A private training
    takes one.

    Raises:
        SettingsError: DEVICE names one GPU, or there are too few.
        LorabelError: a process failed; this worker's log has its reason.
    """
    if recipe.noise_multiplier is not None:
        return private_training.fine_tune(family, model, examples, recipe, on_step)
    count = min(settings.train_processes, recipe.batch, len(examples))
    if count == 1:
        return lora.fine_tune(family, model, examples, recipe, on_step)
    if settings.for_training.device not in ("auto", "cpu", "cuda"):
        device = settings.for_training.device
        raise SettingsError(f"TRAIN_PROCESSES={count} takes a GPU each; set TRAIN_DEVICE={device!r} to cuda")
    if family.device.type == "cuda" and count > torch.cuda.device_count():
        raise SettingsError(f"TRAIN_PROCESSES={count}, but this worker sees {torch.cuda.device_count()} GPUs")
    with TemporaryDirectory(prefix="lorabel-") as scratch:
        exchange = Path(scratch)
        plan = LaunchPlan(settings, family.name, list(examples), recipe)
        torch.save(plan, exchange / PLAN)
        start_adapter = exchange / START_ADAPTER
        lora.save(model, start_adapter)
        loss = 0.0
        with closing(_run(_command(count, exchange, family.device.type), exchange)) as steps:
            for progress in steps:
                on_step(progress)
                loss = progress.loss
        lora.load(model, exchange / RESULT, family.device)
    return loss


def _command(count: int, folder: Path, device: str) -> list[str]:
    """`--multi_gpu` also without a GPU: the launcher needs it to start several processes on one machine."""
    options = ["--multi_gpu", f"--num_processes={count}", "--num_machines=1", "--main_process_port=0"]
    options += ["--mixed_precision=no", "--dynamo_backend=no"]
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", *options),
        *("--module", "workers.launched", str(folder), device),
    ]


def _run(command: Sequence[str], folder: Path) -> Generator[lora.Progress, None, None]:
    """Start the command and yield its progress step by step. Always ends its processes, also after an error."""
    progress = folder / PROGRESS
    progress.touch()
    with _pipe(folder / ALIVE):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            yield from _steps(process, progress)
        finally:
            _end(process)


def _steps(process: "subprocess.Popen[bytes]", progress: Path) -> Iterator[lora.Progress]:
    with progress.open() as lines:
        is_over = False
        while not is_over:
            is_over = process.poll() is not None
            for line in lines:
                yield lora.Progress(**json.loads(line))
            time.sleep(0 if is_over else POLL_S)
    if process.returncode:
        raise LorabelError(f"training in several processes ended with status {process.returncode}; see the log")


@contextmanager
def _pipe(path: Path) -> Iterator[None]:
    """Make a named pipe and hold it open for writing during the block; the launcher does not inherit it."""
    os.mkfifo(path)
    alive = os.open(path, os.O_RDWR)  # O_WRONLY would wait for a reader
    try:
        yield
    finally:
        os.close(alive)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the launcher, which ends its processes. Kill it if it takes longer than STOP_TIMEOUT_S."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
