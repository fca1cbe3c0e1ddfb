"""The limit as a subject measures it: a process of `benchmarks/limit.py`, and its figures as rows."""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks.plan import Plan
from benchmarks.rows import Row, row_of
from lorabel.commands.supervisor import PATIENCE
from tests.e2e.lorabel_processes import bare_environment


@dataclass(frozen=True)
class Limit:
    """The figures that `benchmarks/limit.py` prints."""

    setup: dict[str, Any]
    images_per_second: list[float]
    forward_per_second: list[float]

    def __add__(self, other: "Limit") -> "Limit":
        """Two measurements of the same setup as one."""
        return Limit(
            self.setup,
            self.images_per_second + other.images_per_second,
            self.forward_per_second + other.forward_per_second,
        )

    def rows(self, name: str = "limit") -> list[Row]:
        """The rates with the setup. `name` begins the names of the rows."""
        setup = self.setup
        note = f"{setup['precision']}, batch {setup['batch']}" + (
            ", scaled decoding" if setup["is_scaled"] else ""
        )
        note += ", each core its own pictures" if setup["is_divided"] else ""
        return [
            row_of(f"{name}: plain loop over JPEGs in memory", self.images_per_second, "tasks/s", note=note),
            row_of(
                f"{name} without decoding: forward passes alone", self.forward_per_second, "tasks/s", note=note
            ),
        ]


def measure_limit(plan: Plan, family: str, model: str, device: str, setup: dict[str, Any] | None = None) -> Limit:
    """Measure the limit with the best setup, or with a setup that was the best before."""
    options = ["--family", family, "--model", model, "--device", device, "--seconds", str(plan.seconds)]
    options += ["--quick"] if plan.is_quick else []
    options += ["--setup", json.dumps(setup)] if setup else []
    command = [sys.executable, "-m", "benchmarks.limit", *options]
    environment = {**bare_environment(), **PATIENCE}
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    figures = json.loads(ended.stdout)
    return Limit(figures["setup"], figures["images_per_second"], figures["forward_per_second"])
