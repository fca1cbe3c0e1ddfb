"""One of the processes that train together: `accelerate launch --module workers.launched FOLDER cpu|cuda`.

`workers/launch.py` starts it and defines what is in the folder.
"""

import json
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import PartialState

from lorabel import logs
from lorabel.families.base import Family
from lorabel.families.loading import family_types, load_family
from workers import lora
from workers.launch import ALIVE, PLAN, PROGRESS, RESULT, START_ADAPTER, LaunchPlan


def main(folder: Path, device: str) -> None:
    # Without O_NONBLOCK, opening would wait for the worker, which may have been killed.
    alive_pipe = os.open(folder / ALIVE, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(alive_pipe, True)
    threading.Thread(target=_end_with, args=(alive_pipe,), daemon=True).start()
    # This makes the process's own GPU the current device, so that `cuda` means that GPU.
    state = PartialState(cpu=device == "cpu")
    # Unpickling is safe: our own worker wrote the file, into a folder that nobody else can write to. Tensors on
    # the worker's GPU are moved to this process's GPU.
    plan: LaunchPlan = torch.load(folder / PLAN, weights_only=False, map_location={"cuda:0": str(state.device)})
    logs.configure(plan.settings)
    family = _load(plan)
    question = plan.examples[0].training_example.question
    with (
        lora.adapted(family, question, folder / START_ADAPTER, plan.recipe) as model,
        (folder / PROGRESS).open("a") as lines,
    ):

        def report(progress: lora.Progress) -> None:
            if state.is_main_process:
                lines.write(json.dumps(asdict(progress)) + "\n")
                lines.flush()

        lora.fine_tune(family, model, plan.examples, plan.recipe, report)
        if state.is_main_process:
            lora.save(model, folder / RESULT)
    state.destroy_process_group()


def _end_with(alive_pipe: int) -> None:
    """End this process when the worker closes the pipe: the run is over or the worker was killed."""
    os.read(alive_pipe, 1)
    os._exit(1)


def _load(plan: LaunchPlan) -> Family:
    (family_type,) = (family_type for family_type in family_types() if family_type.name == plan.family)
    return load_family(family_type, plan.settings.for_training, dtype=torch.float32)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
