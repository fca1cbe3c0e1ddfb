"""Reports training runs to TensorBoard, Weights & Biases or MLflow, as the setting TRACKER says.

accelerate's trackers are used (https://huggingface.co/docs/accelerate/usage_guides/tracking). Each run of each
control tag is a run of the tracker: its parameters, the loss of each step, and the metrics of its evaluation.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from lorabel.errors import SettingsError
from lorabel.settings import Settings
from workers.acceptance import Judgement
from workers.lora import Progress

# In DATA_DIR; TensorBoard's files are there.
FOLDER = "tracking"
# The project of Weights & Biases, and the experiment of MLflow.
PROJECT = "lorabel"


class Tracker:
    """A run of a control tag. The tracker hears of it at the first step: most attempts to learn have no steps."""

    def __init__(self, settings: Settings, name: str, device: torch.device, parameters: Mapping[str, Any]) -> None:
        self._settings, self._name, self._device, self._parameters = settings, name, device, parameters
        self._tracker: GeneralTracker | None = None
        self._last_step = 0

    def report(self, progress: Progress) -> None:
        """Report the loss after a step."""
        if self._settings.tracker == "none":
            return
        if self._tracker is None:
            self._tracker = self._start()
        self._last_step = progress.step
        self._tracker.log({"loss": progress.loss}, step=progress.step)

    def conclude(self, judgement: Judgement) -> None:
        """Report the metrics of candidate and live, and whether the candidate was accepted."""
        if self._tracker is None:
            return
        metrics = {
            f"{side}/{name}": value
            for side, evaluation in (("candidate", judgement.candidate), ("live", judgement.live))
            for name, value in evaluation.values.items()
            if isinstance(value, int | float)
        }
        self._tracker.log({**metrics, "accepted": int(judgement.is_accepted)}, step=self._last_step)

    def close(self) -> None:
        """Write what is not written yet."""
        if self._tracker is not None:
            self._tracker.finish()

    def _start(self) -> GeneralTracker:
        # accelerate keeps the device for the whole process, and its trackers would choose the GPU.
        PartialState(cpu=self._device.type == "cpu")
        tracker: GeneralTracker
        match self._settings.tracker:
            case "tensorboard":
                folder = self._settings.data_dir.absolute() / FOLDER
                tracker = LOGGER_TYPE_TO_CLASS["tensorboard"](self._name, folder)
            case "wandb":
                tracker = LOGGER_TYPE_TO_CLASS["wandb"](PROJECT, name=self._name, reinit=True)
            case _:
                tracker = LOGGER_TYPE_TO_CLASS["mlflow"](PROJECT, run_name=self._name)
        tracker.start()
        tracker.store_init_configuration(dict(self._parameters))
        return tracker


@contextmanager
def tracked(
    settings: Settings, name: str, device: torch.device, parameters: Mapping[str, Any]
) -> Iterator[Tracker]:
    """A context with the tracker of a run.

    Args:
        name: the run's; TensorBoard's files are in the folder of this name in DATA_DIR/tracking.
        device: where the run computes.
        parameters: text, numbers and None by name.
    """
    tracker = Tracker(settings, name, device, parameters)
    try:
        yield tracker
    finally:
        tracker.close()


def check_tracker(tracker: str) -> None:
    """Raise SettingsError if the tracker's package is missing."""
    if tracker != "none" and find_spec(tracker) is None:
        raise SettingsError(f"TRACKER={tracker}, but that package is not installed; install lorabel[tracking]")
