"""The training loop in several processes, one per GPU, where TRAIN_PROCESSES says so; else in this one.

accelerate's launcher (https://huggingface.co/docs/accelerate/basic_tutorials/launch) starts
`workers/launched.py` on this machine. The processes share out each batch and come to the same adapter as one
process would. Between them and this worker there is a private folder: a plan and the adapter to begin with go in,
progress and the trained adapter come out.

The launcher puts each process into a session of its own, so no signal to its group reaches them. They end with a
pipe instead, which this worker holds open: it closes when the run ends, and when this worker is killed.
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
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict

from lorabel.errors import LorabelError, SettingsError
from lorabel.families.base import Family
from lorabel.settings import Settings
from workers import lora
from workers.examples import Example

log = logging.getLogger(__name__)

PLAN, BEGINNING, PROGRESS, RESULT, ALIVE = "plan.pt", "beginning", "progress.jsonl", "result", "alive"
POLL_S = 0.2
STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Plan:
    """What the processes need to know."""

    settings: Settings
    family: str
    examples: list[Example]
    recipe: lora.Recipe
    name: str
    folder: Path


def fine_tune(
    settings: Settings,
    family: Family,
    model: PeftModel,
    examples: Sequence[Example],
    recipe: lora.Recipe,
    name: str,
    folder: Path,
    on_step: Callable[[lora.Progress], None],
) -> float:
    """As `lora.fine_tune`, in no more processes than a batch has examples.

    Raises:
        SettingsError: DEVICE names one GPU, or there are too few.
        LorabelError: a process failed; this worker's log has its reason.
    """
    count = min(settings.train_processes, recipe.batch, len(examples))
    if count == 1:
        return lora.fine_tune(family, model, examples, recipe, name, folder, on_step)
    if settings.for_training.device not in ("auto", "cpu", "cuda"):
        device = settings.for_training.device
        raise SettingsError(f"TRAIN_PROCESSES={count} takes a GPU each; set TRAIN_DEVICE={device!r} to cuda")
    if family.device.type == "cuda" and count > torch.cuda.device_count():
        raise SettingsError(f"TRAIN_PROCESSES={count}, but this worker sees {torch.cuda.device_count()} GPUs")
    lora.check_tracker(recipe.tracker)
    with TemporaryDirectory(prefix="lorabel-") as scratch:
        here = Path(scratch)
        plan = Plan(settings, family.name, list(examples), recipe, name, folder.absolute())
        torch.save(plan, here / PLAN)
        model.save_pretrained(here / BEGINNING, selected_adapters=[lora.CANDIDATE], save_embedding_layers=False)
        loss = 0.0
        with closing(_run(_command(count, here, family.device.type), here)) as steps:
            for progress in steps:
                on_step(progress)
                loss = progress.loss
        trained = load_peft_weights(here / RESULT, device=str(family.device))
        set_peft_model_state_dict(model, trained, adapter_name=lora.CANDIDATE)
    return loss


def _command(count: int, folder: Path, device: str) -> list[str]:
    """`--multi_gpu` also where there is no GPU: it is how several processes of one machine are asked for."""
    options = ["--multi_gpu", f"--num_processes={count}", "--num_machines=1", "--main_process_port=0"]
    options += ["--mixed_precision=no", "--dynamo_backend=no"]
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", *options),
        *("--module", "workers.launched", str(folder), device),
    ]


def _run(command: Sequence[str], folder: Path) -> Generator[lora.Progress, None, None]:
    """Each step as it is made. Whatever happens, no process is left."""
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
    """Open for writing as long as the processes are to run; the launcher does not inherit it."""
    os.mkfifo(path)
    alive = os.open(path, os.O_RDWR)  # O_WRONLY would wait for a reader
    try:
        yield
    finally:
        os.close(alive)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """The launcher ends its processes in order if it can; it may have been killed itself."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
