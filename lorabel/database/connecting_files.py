"""The folder with a file for each attempt to connect projects from the page; `backend/pages/connections.py` writes
them. A file quotes a prediction and has, at first, an encrypted token, so none is kept for long."""

import json
import time
from contextlib import suppress
from pathlib import Path

from lorabel.settings import Settings

KEPT_S = 3600.0
# Nothing is written for so long only if the process has ended: a proof takes at most 110 s.
SILENT_FOR_S = 300.0
BEGUN = ".begun"
"""End of the name of the empty file that says that an attempt has begun."""


def folder_of(settings: Settings) -> Path:
    """The folder, which every process of the backend sees."""
    return settings.data_dir.absolute() / "connecting"


def remove_old(settings: Settings) -> int:
    """Remove the files that were written last more than KEPT_S ago. Returns how many they were."""
    return remove_older(folder_of(settings), KEPT_S)


def remove_older(folder: Path, kept_s: float) -> int:
    """Remove the files of a folder that were written last more than `kept_s` seconds ago.

    Returns:
        How many they were.
    """
    count = 0
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError):  # another process removes them, too
            if time.time() - path.stat().st_mtime > kept_s:
                path.unlink()
                count += 1
    return count


def remove_ended(settings: Settings) -> int:
    """Remove the files of attempts that have ended, or of which nothing was heard for SILENT_FOR_S.

    Returns:
        How many attempts go on, whose files stay.
    """
    folder = folder_of(settings)
    going_on = 0
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        if "." in path.name:
            continue  # goes with the attempt's own file
        with suppress(FileNotFoundError):
            is_silent = time.time() - path.stat().st_mtime > SILENT_FOR_S
            if is_silent or json.loads(path.read_bytes())["is_ended"]:
                for file in (path, path.with_name(path.name + BEGUN)):
                    file.unlink(missing_ok=True)
            else:
                going_on += path.with_name(path.name + BEGUN).exists()
    return going_on
