"""What the processes log, and how: one line each on standard error, without secrets."""

import logging

from lorabel.settings import Settings

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
OURS = ("__main__", "backend", "lorabel", "model_server", "workers")


def configure(settings: Settings, handler: logging.Handler | None = None) -> None:
    """LOG_LEVEL is for our own lines; of the libraries' only warnings, open_clip alone says ten per model.

    Args:
        handler: shows the lines instead of the plain one, e.g. one that knows the terminal's width.
    """
    if handler is None:
        logging.basicConfig(level=logging.WARNING, format=FORMAT)
    else:
        logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    for name in OURS:
        logging.getLogger(name).setLevel(settings.log_level.upper())
