"""A Flask endpoint that only commits one row to a database, for comparison with the webhook.

python -m benchmarks.bare_webhook sqlite:///bare.db 9999
"""

import sys

from flask import Flask, request
from gunicorn.app.base import BaseApplication

from lorabel.database.store import Store
from lorabel.database.tables import Event, EventState

THREADS = 32


def create_app(database: str) -> Flask:
    store = Store(database)
    store.migrate()
    app = Flask("bare_webhook")

    @app.post("/webhook")
    def webhook() -> dict[str, str]:
        body = request.get_data(as_text=True)
        with store.write() as session:
            session.add(Event(action="x", project_id=1, payload=body, state=EventState.IGNORED))
        return {}

    return app


class Server(BaseApplication):  # type: ignore[misc]
    """The same kind of server as the backend's, with the same number of threads."""

    def load_config(self) -> None:
        for key, value in {
            "bind": f"127.0.0.1:{sys.argv[2]}",
            "threads": THREADS,
            "worker_class": "gthread",
            "loglevel": "error",
            "keepalive": 75,
            "control_socket_disable": True,
        }.items():
            self.cfg.set(key, value)

    def load(self) -> Flask:
        return create_app(sys.argv[1])


if __name__ == "__main__":
    Server().run()
