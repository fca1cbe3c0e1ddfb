"""`accelerate launch --module workers.launched FOLDER cpu|cuda`: one of the processes that train together.

`workers/launch.py` starts it and says what is in the folder.
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
from workers.launch import ALIVE, BEGINNING, PLAN, PROGRESS, RESULT, Plan


def main(folder: Path, device: str) -> None:
    # Without O_NONBLOCK it would wait for a worker that may be gone.
    alive = os.open(folder / ALIVE, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(alive, True)
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    # Makes the process' own GPU the current one, which `cuda` then means.
    state = PartialState(cpu=device == "cpu")
    # Our own worker wrote it, into a folder that nobody else can write to. What it computed on its GPU is needed
    # on this process' own.
    plan: Plan = torch.load(folder / PLAN, weights_only=False, map_location={"cuda:0": str(state.device)})
    logs.configure(plan.settings)
    family = _load(plan)
    question = plan.examples[0].lesson.question
    with (
        lora.adapted(family, question, folder / BEGINNING, plan.recipe) as model,
        (folder / PROGRESS).open("a") as lines,
    ):

        def report(progress: lora.Progress) -> None:
            if state.is_main_process:
                lines.write(json.dumps(asdict(progress)) + "\n")
                lines.flush()

        lora.fine_tune(family, model, plan.examples, plan.recipe, plan.name, plan.folder, report)
        if state.is_main_process:
            model.save_pretrained(folder / RESULT, selected_adapters=[lora.CANDIDATE], save_embedding_layers=False)
    state.destroy_process_group()


def _end_with(alive: int) -> None:
    """When nobody holds the pipe open, nobody wants this process: neither the worker lives nor the run."""
    os.read(alive, 1)
    os._exit(1)


def _load(plan: Plan) -> Family:
    (kind,) = (kind for kind in family_types() if kind.name == plan.family)
    return load_family(kind, plan.settings.for_training, dtype=torch.float32)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
