"""The folder with a file for each attempt to connect projects from the page; `backend/pages/connections.py` writes
them. A file quotes a prediction and has, at first, an encrypted token, so none is kept for long."""

import time
from contextlib import suppress
from pathlib import Path

from lorabel.settings import Settings

KEPT_S = 3600.0


def folder_of(settings: Settings) -> Path:
    """The folder, which every process of the backend sees."""
    return settings.data_dir.absolute() / "connecting"


def remove_old(settings: Settings, kept_s: float = KEPT_S) -> int:
    """Remove the files that were written last more than `kept_s` seconds ago. Returns how many they were."""
    folder, count = folder_of(settings), 0
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError):  # another process removes them, too
            if time.time() - path.stat().st_mtime > kept_s:
                path.unlink()
                count += 1
    return count
