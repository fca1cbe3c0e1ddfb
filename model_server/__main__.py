"""`python -m model_server`: the single process that owns the device, run by gunicorn with threads."""

import logging
from pathlib import Path

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.errors import AppImportError

from lorabel import logs
from lorabel.errors import SettingsError
from lorabel.network import server_tls
from lorabel.settings import Settings
from lorabel.startup import garbage_collector_paused

log = logging.getLogger(__name__)

THREADS = 256
KEEPALIVE_S = 75


class ModelServer(BaseApplication):  # type: ignore[misc]
    """Gunicorn with settings from code (https://docs.gunicorn.org/en/stable/custom.html).

    The app is created in the worker process, since CUDA does not work after a fork.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        settings = self._settings
        for key, value in {
            "bind": f"{settings.model_server_host}:{settings.model_server_port}",
            "workers": 1,
            "threads": THREADS,
            "worker_class": "lorabel.http_server.worker.EventWorker",
            "keepalive": KEEPALIVE_S,
            # Loading a base model may take minutes. A supervisor or the container restarts a worker that hangs.
            "timeout": 0,
            "loglevel": settings.log_level.lower(),
            "control_socket_disable": True,
            "proc_name": "lorabel-model-server",
            "certfile": _text(settings.model_server_tls_certificate),
            "keyfile": _text(settings.model_server_tls_key),
        }.items():
            self.cfg.set(key, value)

    def load(self) -> Flask:
        with garbage_collector_paused():
            from model_server.app import create_app

        try:
            return create_app(self._settings)
        except SettingsError as error:
            log.error("cannot start: %s", " ".join(str(error).split()))
            # Gunicorn then ends with Arbiter.APP_LOAD_ERROR, and does not start another worker.
            raise AppImportError("see the line above") from error


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def main() -> None:
    """Serve at MODEL_SERVER_HOST and the port of MODEL_SERVER_URL until a signal ends the process."""
    settings = Settings()
    logs.configure(settings)
    if settings.model_server_tls_certificate is not None:
        server_tls(settings.model_server_tls_certificate, settings.model_server_tls_key)
    ModelServer(settings).run()


if __name__ == "__main__":
    main()
