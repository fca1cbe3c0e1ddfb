"""What gunicorn starts: `gunicorn --config backend/gunicorn.conf.py` (it names `backend.wsgi:app()`)."""

import logging

from flask import Flask

from backend.app import create_app
from lorabel.settings import Settings

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def app() -> Flask:
    settings = Settings()
    logging.basicConfig(level=settings.log_level.upper(), format=FORMAT)
    # It writes a line per request to the model server, with nothing in it that ours lacks.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return create_app(settings)
