"""How long to measure, on which device, and where files go: what every subject is given."""

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
        """Only device and precision are those of the run."""
        return Settings(device=self.device, precision=self.precision)

    @property
    def variables(self) -> dict[str, str]:
        """For processes of Lorabel that a subject starts."""
        return {"DEVICE": self.device, "PRECISION": self.precision, "TRAIN_AFTER_ANNOTATIONS": "1000000"}

    @property
    def cores(self) -> int:
        return len(os.sched_getaffinity(0))
