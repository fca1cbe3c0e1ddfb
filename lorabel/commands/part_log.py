"""What a part that `lorabel up` has started says in its log: one line a message, as `lorabel.logs` writes it.

2026-11-26 18:54:16,201 INFO lorabel.families.loading: loading dual_encoder from local-dir:model on cpu in float32
"""

import os
import re
from pathlib import Path

from lorabel.logs import OURS
from lorabel.settings import Settings

LINE = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+ (?P<level>[A-Z]+) (?P<logger>[\w.]+): (?P<message>.*)")
MODEL_SERVER = "model_server"
TAIL_BYTES = 65_536


def log_file(settings: Settings, name: str) -> Path:
    """Where `lorabel up` writes the output of a part, such as `model_server`."""
    return settings.data_dir.absolute() / "logs" / f"{name}.log"


class PartLog:
    """Reads the messages that come from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_until = path.stat().st_size if path.exists() else 0

    def new_messages(self) -> list[str]:
        """The messages of Lorabel's own code since the last call, without errors."""
        lines, self._read_until = _read(self._path, self._read_until)
        return [match["message"] for match in _messages(lines) if match["level"] != "ERROR"]


def newest_message(path: Path) -> str | None:
    """The last message of Lorabel's own code; None if there is no such message in the log's last 64 kB."""
    size = path.stat().st_size if path.exists() else 0
    messages = _messages(_read(path, max(0, size - TAIL_BYTES))[0])
    return messages[-1]["message"] if messages else None


def _read(path: Path, start: int) -> tuple[list[str], int]:
    """The whole lines from `start` on, and where they end. A log that has become shorter is read anew."""
    if not path.exists():
        return [], 0
    with path.open("rb") as log:
        start = start if start <= log.seek(0, os.SEEK_END) else 0
        log.seek(start)
        whole = log.read().rpartition(b"\n")[0]
    return whole.decode(errors="replace").splitlines(), start + len(whole)


def _messages(lines: list[str]) -> list[re.Match[str]]:
    matches = filter(None, (LINE.fullmatch(line) for line in lines))
    return [match for match in matches if match["logger"].partition(".")[0] in OURS]
