"""The WSGI entry point, which gunicorn starts: `gunicorn --config backend/gunicorn.conf.py`."""

from flask import Flask

from lorabel import logs
from lorabel.settings import Settings
from lorabel.startup import garbage_collector_paused


def app() -> Flask:
    """Read the settings, configure logging, and create the app."""
    with garbage_collector_paused():
        from backend.app import create_app
    settings = Settings()
    logs.configure(settings)
    return create_app(settings)
