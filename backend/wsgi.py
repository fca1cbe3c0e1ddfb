"""What gunicorn starts: `gunicorn --config backend/gunicorn.conf.py` (it names `backend.wsgi:app()`)."""

from flask import Flask

from backend.app import create_app
from lorabel import logs
from lorabel.settings import Settings


def app() -> Flask:
    settings = Settings()
    logs.configure(settings)
    return create_app(settings)
