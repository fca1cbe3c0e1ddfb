"""Reports training runs to TensorBoard, Weights & Biases or MLflow, as the setting TRACKER says.

accelerate's trackers are used (https://huggingface.co/docs/accelerate/usage_guides/tracking). Each run of each
control tag is a run of the tracker: its parameters, the loss of each step, the metrics of its evaluation, and the
adapter as an artifact. TensorBoard has no artifacts.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from lorabel.errors import SettingsError
from lorabel.settings import Settings
from workers.acceptance import Judgement
from workers.lora import Progress

log = logging.getLogger(__name__)

# In DATA_DIR; the files of TensorBoard and Weights & Biases are there.
FOLDER = "tracking"
# The project of Weights & Biases, and the experiment of MLflow.
PROJECT = "lorabel"


class Tracker:
    """A run of a control tag. The tracker hears of it at the first step: most attempts to learn have no steps.

    A training run does not depend on its tracker: the first error is logged, and nothing more is reported.
    """

    def __init__(self, settings: Settings, name: str, device: torch.device, parameters: Mapping[str, Any]) -> None:
        self._settings, self._name, self._device, self._parameters = settings, name, device, parameters
        self._tracker: GeneralTracker | None = None
        self._last_step = 0
        self._has_failed = False

    def report(self, progress: Progress) -> None:
        """Report the loss after a step."""
        if self._settings.tracker != "none":
            self._last_step = progress.step
            self._try(lambda tracker: tracker.log({"loss": progress.loss}, step=progress.step))

    def conclude(self, judgement: Judgement, adapter: Path | None) -> None:
        """Report what a run made.

        Args:
            judgement: the metrics of candidate and live, and whether the candidate was accepted.
            adapter: the folder with the adapter's files; None if there is no candidate.
        """
        if self._tracker is None:
            return
        metrics = {
            f"{side}/{name}": value
            for side, evaluation in (("candidate", judgement.candidate), ("live", judgement.live))
            for name, value in evaluation.values.items()
            if isinstance(value, int | float)
        }
        metrics["accepted"] = int(judgement.is_accepted)
        self._try(lambda tracker: tracker.log(metrics, step=self._last_step))
        if adapter is not None:
            self._try(lambda tracker: self._send(tracker, adapter))

    def close(self) -> None:
        """Write what is not written yet."""
        if self._tracker is not None:
            self._has_failed = False  # what was reported before an error is kept
            self._try(lambda tracker: tracker.finish())

    def _try(self, report: Callable[[GeneralTracker], object]) -> None:
        if self._has_failed:
            return
        try:
            if self._tracker is None:
                self._tracker = self._start()
            report(self._tracker)
        except Exception as error:  # noqa: BLE001 - trackers raise errors of their own and of their HTTP clients
            self._has_failed = True
            log.warning("%s gets no more of %s: %s", self._settings.tracker, self._name, error)

    def _start(self) -> GeneralTracker:
        # accelerate keeps the device for the whole process, and its trackers would choose the GPU.
        PartialState(cpu=self._device.type == "cpu")
        folder = self._settings.data_dir.absolute() / FOLDER
        tracker: GeneralTracker
        match self._settings.tracker:
            case "tensorboard":
                tracker = LOGGER_TYPE_TO_CLASS["tensorboard"](self._name, folder)
            case "wandb":
                folder.mkdir(parents=True, exist_ok=True)
                tracker = LOGGER_TYPE_TO_CLASS["wandb"](
                    PROJECT, name=self._name, dir=str(folder), reinit="finish_previous"
                )
            case _:
                tracker = LOGGER_TYPE_TO_CLASS["mlflow"](PROJECT, run_name=self._name)
        tracker.start()
        # Kept before it can fail: a run of MLflow that nobody ends is in the way of all later ones of the process.
        self._tracker = tracker
        tracker.store_init_configuration(dict(self._parameters))
        return tracker

    def _send(self, tracker: GeneralTracker, adapter: Path) -> None:
        match self._settings.tracker:
            case "wandb":
                # Names of artifacts have no slashes.
                tracker.tracker.log_artifact(str(adapter), name=self._name.replace("/", "."), type="adapter")
            case "mlflow":
                tracker.log_artifacts(str(adapter), "adapter")


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
