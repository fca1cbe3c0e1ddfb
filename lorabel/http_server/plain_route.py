"""A route that is called for each task, answered without Flask's contexts, routing and response objects.

These take a quarter of the CPU time of a request for one task. Whatever is unusual goes to Flask: a request whose
body has no length or too long a one, one that `is_plain` does not let pass, and each request that fails. So
Flask's hooks and handlers of errors count for all of them, and need not be repeated here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from flask import Flask, request

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Key of the WSGI environment: the exception that a request has failed with, for Flask to answer.
FAILURE = "lorabel.failure"


@dataclass(frozen=True)
class PlainAnswer:
    """JSON with status 200. `on_sent` is called after it was sent."""

    body: bytes
    on_sent: Callable[[], None] | None = None


class PlainRoute:
    """WSGI middleware that answers POST requests at one path.

    Args:
        app: answers all other requests. Its own route at the path begins with `raise_failure`, and answers like
            `answer`.
        answer: gets the body and the WSGI environment.
        is_plain: whether a request needs none of the app's hooks that run before requests.
    """

    def __init__(
        self,
        app: Flask,
        path: str,
        answer: "Callable[[bytes, WSGIEnvironment], PlainAnswer]",
        is_plain: "Callable[[WSGIEnvironment], bool]",
    ) -> None:
        self._app: WSGIApplication = app.wsgi_app
        self._path, self._answer, self._is_plain = path, answer, is_plain
        self._longest_body: int = app.config["MAX_CONTENT_LENGTH"]

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ["PATH_INFO"] != self._path or environ["REQUEST_METHOD"] != "POST":
            return self._app(environ, start_response)
        length = environ.get("CONTENT_LENGTH") or ""
        is_short = length.isdecimal() and int(length) <= self._longest_body
        if not is_short or "HTTP_TRANSFER_ENCODING" in environ or not self._is_plain(environ):
            return self._app(environ, start_response)
        body = environ["wsgi.input"].read(int(length))
        try:
            answer = self._answer(body, environ)
        except Exception as error:  # noqa: BLE001 - Flask raises it again, and answers
            environ[FAILURE], environ["wsgi.input"] = error, BytesIO(body)
            try:
                return self._app(environ, start_response)
            finally:
                # The exception knows this frame, and so the body: a cycle that only a full collection would find.
                environ.pop(FAILURE, None)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(answer.body)))]
        start_response("200 OK", headers)
        return [answer.body] if answer.on_sent is None else _Sent(answer.body, answer.on_sent)


def raise_failure() -> None:
    """Raise what the current request of Flask has failed with before it came to Flask, if anything."""
    failure = request.environ.pop(FAILURE, None)
    if failure is not None:
        try:
            raise failure
        finally:
            del failure  # the exception knows this frame, too


class _Sent(list[bytes]):
    """The parts of an answer. The server calls `close` when they are sent."""

    def __init__(self, body: bytes, on_sent: Callable[[], None]) -> None:
        super().__init__([body])
        self.close = on_sent
