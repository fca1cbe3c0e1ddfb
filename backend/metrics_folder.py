"""Where several processes of one backend put their counts. Apart from `metrics.py`, since prometheus_client
must not be imported before the folder's name is in the environment."""

from pathlib import Path

from lorabel.settings import Settings


def shared_folder(settings: Settings) -> Path | None:
    """None for a single process, which counts in memory."""
    return settings.data_dir.absolute() / "metrics" if settings.workers > 1 else None
