"""The WSGI entry point, which gunicorn starts: `gunicorn --config backend/gunicorn.conf.py`."""

from flask import Flask

from backend.app import create_app
from lorabel import logs
from lorabel.settings import Settings


def app() -> Flask:
    """Read the settings, configure logging, and create the app."""
    settings = Settings()
    logs.configure(settings)
    return create_app(settings)
