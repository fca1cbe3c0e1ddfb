"""Addresses and answers that the modules with routes of pages share."""

import hashlib
from typing import Any

from flask import Response, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from backend import http_bodies

NUMBER = f"<int(max={http_bodies.LARGEST_ID}):"
PROJECT = f"/projects/{NUMBER}project_id>"
# The browser asks for news so often, in milliseconds. Each answer is complete at once, so it holds no thread.
RETRY_MS = 2000
EVENTS_TYPE = "text/event-stream"
# Of an answer that shows the form again, with what is wrong in it.
UNPROCESSABLE = 422
# After this a browser asks for no more events.
NO_CONTENT = 204


def event_answer(html: str) -> Response:
    """A part of a page as a server-sent event, without it if the browser has it already.

    The answer ends at once, and the browser asks again after RETRY_MS: an open stream would hold a thread.
    """
    number = hashlib.sha256(html.encode()).hexdigest()[:16]
    event = f"retry: {RETRY_MS}\n"
    if request.headers.get("Last-Event-ID") != number:
        lines = "".join(f"data: {line}\n" for line in html.splitlines())
        event += f"id: {number}\n{lines}"
    return Response(f"{event}\n", content_type=EVENTS_TYPE)


def quiet_answer() -> Response:
    """No event yet; the browser asks again after RETRY_MS."""
    return Response(f"retry: {RETRY_MS}\n\n", content_type=EVENTS_TYPE)


def see(endpoint: str, **values: Any) -> AnyResponse:
    """Send the browser to a page after a form."""
    return redirect(url_for(endpoint, **values), 303)
