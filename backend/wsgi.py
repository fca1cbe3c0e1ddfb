"""The WSGI entry point, which gunicorn starts: `gunicorn --config backend/gunicorn.conf.py`."""

from flask import Flask

from lorabel import logs
from lorabel.settings import Settings
from lorabel.startup import garbage_collector_paused

ANY_LABEL_CONFIG = '<View><Text name="text" value="$text"/><Rating name="rating" toName="text"/></View>'


def app() -> Flask:
    """Read the settings, configure logging, and create the app.

    What reads label configs is imported here: in a new installation that takes seconds, and Label Studio gives the
    first /setup three (ML_TIMEOUT_SETUP).
    """
    with garbage_collector_paused():
        from backend.app import create_app
        from lorabel.problems.binding import bind

        bind(ANY_LABEL_CONFIG)
    settings = Settings()
    logs.configure(settings)
    return create_app(settings)
