"""Logging of all processes: lines on standard error, without secrets."""

import logging

from lorabel.settings import Settings

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
OURS = ("__main__", "backend", "lorabel", "model_server", "workers")


def configure(settings: Settings, handler: logging.Handler | None = None) -> None:
    """Set up logging once per process.

    Our own packages log from LOG_LEVEL up. Libraries log warnings and errors only: open_clip alone would log ten
    lines for each model.

    Args:
        handler: prints the lines; default: a plain handler that prints time, level and logger to standard error.
    """
    if handler is None:
        logging.basicConfig(level=logging.WARNING, format=FORMAT)
    else:
        logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    for name in OURS:
        logging.getLogger(name).setLevel(settings.log_level.upper())
