"""The client of the model server, for backend and workers.

On the standard library's http.client, with idle connections on a stack: a prediction is one POST, and with a
hundred of them under way httpcore's pool, which looks at every connection each time, costs more than the request.
"""

import base64
import select
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPMessage,
    HTTPResponse,
    HTTPSConnection,
    RemoteDisconnected,
)
from queue import Empty, LifoQueue
from urllib.parse import urlsplit

from lorabel.errors import ModelServerBusyError, ModelServerError
from lorabel.inference.messages import (
    ModelsResponse,
    PredictRequest,
    PredictResponse,
    PredictRow,
    PreloadRequest,
    Priority,
    RowResult,
)
from lorabel.settings import Settings

PROBE_TIMEOUT_S = 5.0
ANSWER_GRACE_S = 2.0
LOOK_EVERY_S = 0.2
BUSY = 503
LEAST_ERROR = 400
# What a kept connection does when the other end has closed it meanwhile.
STALE = (RemoteDisconnected, BrokenPipeError, ConnectionResetError)


class ModelClient:
    """Thread-safe; connections are kept."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.model_server_url.rstrip("/")
        parts = urlsplit(self._url)
        self._kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._host, self._port, self._path = parts.hostname or "", parts.port, parts.path
        self._idle: LifoQueue[HTTPConnection] = LifoQueue()
        self._headers = {"Content-Type": "application/json"}
        if settings.basic_auth is not None:
            token = base64.b64encode(":".join(settings.basic_auth).encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"

    def predict(
        self,
        rows: Sequence[PredictRow],
        timeout_s: float,
        project: int,
        priority: Priority = Priority.INTERACTIVE,
        is_gone: Callable[[], bool] | None = None,
    ) -> list[RowResult]:
        """One result per row, in order.

        Args:
            is_gone: asked now and then while we wait; once it is true nobody wants the answer any more, and
                the model server finds our connection closed.

        Raises:
            ModelServerBusyError: its queue is full.
            ModelServerError: it cannot be reached or failed, or `is_gone` came true.
        """
        request = PredictRequest(rows=list(rows), timeout_s=timeout_s, project=project, priority=priority)
        # It answers what is ready at the time limit, so the connection must live a little longer.
        body = self._send("POST", "/v1/predict", request.model_dump_json(), timeout_s + ANSWER_GRACE_S, is_gone)
        answer = PredictResponse.model_validate_json(body)
        if len(answer.rows) != len(rows):
            raise ModelServerError(f"model server answered {len(answer.rows)} rows for {len(rows)}")
        return answer.rows

    def preload(self, adapters: Sequence[str], timeout_s: float = 60.0) -> None:
        """Have adapters in memory before anybody waits for them."""
        self._send("POST", "/v1/preload", PreloadRequest(adapters=list(adapters)).model_dump_json(), timeout_s)

    def models(self) -> ModelsResponse:
        return ModelsResponse.model_validate_json(self._send("GET", "/v1/models", None, PROBE_TIMEOUT_S))

    def close(self) -> None:
        with suppress(Empty):
            while True:
                self._idle.get_nowait().close()

    def _send(
        self,
        method: str,
        path: str,
        body: str | None,
        timeout_s: float,
        is_gone: Callable[[], bool] | None = None,
    ) -> bytes:
        until = time.monotonic() + timeout_s
        try:
            status, headers, content = self._exchange(method, path, body, until, is_gone)
        except (HTTPException, OSError) as error:
            raise ModelServerError(
                f"model server at {self._url} cannot be reached ({type(error).__name__}: {error}); "
                "is it running, and is MODEL_SERVER_URL right?"
            ) from error
        text = content.decode(errors="replace")
        if status == BUSY:
            raise ModelServerBusyError(
                f"model server is busy: {text}", retry_after_s=int(headers.get("Retry-After", "1"))
            )
        if status >= LEAST_ERROR:
            raise ModelServerError(f"model server answered {status} to {path}: {text[:500]}")
        return content

    def _exchange(
        self, method: str, path: str, body: str | None, until: float, is_gone: Callable[[], bool] | None
    ) -> tuple[int, HTTPMessage, bytes]:
        """A kept connection that turns out to be closed is not the end: nothing that we ask does harm twice."""
        try:
            kept = self._idle.get_nowait()
        except Empty:
            kept = None
        if kept is not None:
            with suppress(*STALE):
                return self._ask(kept, method, path, body, until, is_gone)
        fresh = self._kind(self._host, self._port, timeout=PROBE_TIMEOUT_S)
        return self._ask(fresh, method, path, body, until, is_gone)

    def _ask(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        body: str | None,
        until: float,
        is_gone: Callable[[], bool] | None,
    ) -> tuple[int, HTTPMessage, bytes]:
        is_whole = False
        try:
            connection.request(method, f"{self._path}{path}", body.encode() if body else None, self._headers)
            _wait_for_answer(connection, until, is_gone)
            connection.sock.settimeout(max(0.1, until - time.monotonic()))
            answer: HTTPResponse = connection.getresponse()
            content = answer.read()
            is_whole = not answer.will_close
            return answer.status, answer.headers, content
        finally:
            if is_whole:
                self._idle.put(connection)
            else:
                connection.close()


def _wait_for_answer(connection: HTTPConnection, until: float, is_gone: Callable[[], bool] | None) -> None:
    """Look up from waiting now and then: is anybody still interested?"""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    while not poll.poll(1000 * max(0.0, min(LOOK_EVERY_S, until - time.monotonic()))):
        if time.monotonic() >= until:
            raise TimeoutError("the time for an answer is over")
        if is_gone is not None and is_gone():
            raise ConnectionAbortedError("whoever asked has hung up")
