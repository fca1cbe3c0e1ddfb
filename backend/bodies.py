"""Reading a request's body within the limit of MAX_REQUEST_MB."""

from flask import current_app, request
from werkzeug.exceptions import RequestEntityTooLarge


def read_body() -> bytes:
    """Raises RequestEntityTooLarge, also for a body in chunks, which Werkzeug 3.1 cuts off in silence."""
    raw = request.get_data()
    if request.content_length is None and len(raw) >= current_app.config["MAX_CONTENT_LENGTH"]:
        raise RequestEntityTooLarge
    return raw
