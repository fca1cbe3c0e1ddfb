"""The folder in which several processes of one backend share their metrics.

This is not in `metrics.py`, since prometheus_client must not be imported before the folder is in the environment.
"""

from pathlib import Path

from lorabel.settings import Settings


def shared_folder(settings: Settings) -> Path | None:
    """The folder's path; None for a single process, which counts in memory."""
    return settings.data_dir.absolute() / "metrics" if settings.workers > 1 else None
