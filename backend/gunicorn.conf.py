"""gunicorn's settings, from ours. Threads, since a request mostly waits for the database or model server."""

# ruff: noqa: N999 - gunicorn's own name for this file
import os
import shutil
from typing import Any

from backend.metrics_folder import shared_folder
from lorabel.settings import Settings

_settings = Settings()

wsgi_app = "backend.wsgi:app()"
bind = f"{_settings.host}:{_settings.port}"
workers = _settings.workers
threads = _settings.threads
worker_class = "gthread"
loglevel = _settings.log_level.lower()
keepalive = 75
graceful_timeout = 10
# A socket in the home directory, which a container's user may not have and two backends would share.
control_socket_disable = True
# Of the process, not of a request: its main thread reports while the others wait.
timeout = 60


def on_starting(server: Any) -> None:
    """prometheus_client reads the variable when it is imported, which our processes do after this."""
    if folder := shared_folder(_settings):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


def child_exit(server: Any, worker: Any) -> None:
    if folder := shared_folder(_settings):
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(worker.pid, path=str(folder))  # type: ignore[no-untyped-call]
