"""What every subject gets: how long to measure, on which device, and where files go."""

import os
from dataclasses import dataclass
from pathlib import Path

from lorabel.settings import Settings


@dataclass(frozen=True)
class Plan:
    """`seconds` is the length of one measurement; `is_quick` leaves out what is not needed for a first look."""

    folder: Path
    seconds: float
    is_quick: bool
    device: str
    precision: str

    @property
    def warm_up_s(self) -> float:
        return 1.0 if self.is_quick else 2.0

    @property
    def settings(self) -> Settings:
        """The default settings, with the device and precision of this run."""
        return Settings(device=self.device, precision=self.precision)

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables for processes of Lorabel that a subject starts; no run starts by itself."""
        return {"DEVICE": self.device, "PRECISION": self.precision, "TRAIN_AFTER_ANNOTATIONS": "1000000"}

    @property
    def cores(self) -> int:
        return len(os.sched_getaffinity(0))
