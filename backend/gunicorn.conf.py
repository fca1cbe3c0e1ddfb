"""The configuration of gunicorn, taken from our settings.

Requests are answered by threads, since a request mostly waits for the database or the model server. Connections
hold no thread (`lorabel/http_server/worker.py`).
"""

# ruff: noqa: N999 - gunicorn expects this file name
import os
import shutil
from typing import Any

from backend.metrics_folder import shared_folder
from lorabel.network import server_tls
from lorabel.settings import Settings

_settings = Settings()

wsgi_app = "backend.wsgi:app()"
bind = f"{_settings.host}:{_settings.port}"
workers = _settings.workers
threads = _settings.threads
worker_class = "lorabel.http_server.worker.EventWorker"
loglevel = _settings.log_level.lower()
keepalive = 75
graceful_timeout = 10
certfile = None if _settings.tls_certificate is None else str(_settings.tls_certificate)
keyfile = None if _settings.tls_key is None else str(_settings.tls_key)
# The control socket would lie in the home directory, which a container's user may not have, and which two backends
# would share.
control_socket_disable = True
# Seconds after which a silent process is restarted. It does not limit a request: the main thread reports to
# gunicorn while the other threads wait.
timeout = 60


def on_starting(server: Any) -> None:
    """Read the certificate, so that a wrong one ends the start. Set the folder for metrics: our processes import
    prometheus_client, which reads the variable, after this."""
    if _settings.tls_certificate is not None:
        server_tls(_settings.tls_certificate, _settings.tls_key)
    if folder := shared_folder(_settings):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


def child_exit(server: Any, worker: Any) -> None:
    """Remove a dead process from the metrics that describe the present state."""
    if folder := shared_folder(_settings):
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(worker.pid, path=str(folder))  # type: ignore[no-untyped-call]
