"""Runs all processes of Lorabel by `lorabel up`, on free ports and with fresh data."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lorabel.demo import MODEL_FOLDER
from lorabel.settings import Settings
from tests.servers import free_port

READY_TIMEOUT_S = 120.0
PROGRAM = Path(sys.prefix) / "bin" / "lorabel"


@dataclass(frozen=True)
class Lorabel:
    url: str
    settings: Settings
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    log: Path


def start(folder: Path, variables: Mapping[str, str] | None = None) -> Lorabel:
    """Run `lorabel up` with the demo's model and training after 16 annotations, and wait until it prints `ready`.

    Args:
        folder: for data and log.
        variables: are put over these environment variables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    environment = {
        "PORT": str(port),
        "MODEL_SERVER_URL": f"http://127.0.0.1:{free_port()}",
        "DATA_DIR": str(folder / "data"),
        "DEVICE": "cpu",
        "MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}",
        "TRAIN_AFTER_ANNOTATIONS": "16",
        "TRAIN_AFTER_SECONDS": "60",
        # Runs of seconds that make versions. LoRA beside heads has tests in tests/workers.
        "LORA_TOWERS": "text",
        **(variables or {}),
    }
    log = folder / "up.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(PROGRAM), "up"],
            env={**bare_environment(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    lorabel = Lorabel(f"http://127.0.0.1:{environment['PORT']}", _settings(environment), environment, process, log)
    _wait_until_ready(lorabel)
    return lorabel


def bare_environment() -> dict[str, str]:
    """The environment of this process without the variables that Lorabel reads."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.lower() not in Settings.model_fields and not name.startswith("MODEL_")
    }


def _settings(variables: Mapping[str, str]) -> Settings:
    """The settings that the processes read from these variables."""
    fields = {name.lower(): value for name, value in variables.items() if not name.startswith("MODEL_DUAL")}
    return Settings(**fields)  # type: ignore[arg-type]


def _wait_until_ready(lorabel: Lorabel) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and lorabel.process.poll() is None:
        if "ready" in lorabel.log.read_text(errors="replace").split():
            return
        time.sleep(0.3)
    lines = lorabel.log.read_text(errors="replace")[-4000:]
    raise RuntimeError(f"`lorabel up` did not get ready within {READY_TIMEOUT_S:.0f} s:\n{lines}")
