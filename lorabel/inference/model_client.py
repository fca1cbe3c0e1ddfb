"""The client of the model server, for backend and workers.

It keeps idle connections (`model_connection.py`) on a stack. A prediction is one POST. With a hundred requests at
the same time, the pool of httpcore costs more than a request, since it looks at every connection each time.
"""

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException, RemoteDisconnected
from queue import Empty, LifoQueue
from types import MappingProxyType
from urllib.parse import urlsplit

import httpcore

from lorabel.errors import (
    ConflictError,
    LorabelError,
    ModelServerBusyError,
    ModelServerError,
    NotFoundError,
    RequestTooLargeError,
)
from lorabel.inference import request_body
from lorabel.inference.messages import (
    AnsweringFamily,
    FamiliesRequest,
    FamiliesResponse,
    FamilyQuestion,
    ModelsResponse,
    PredictRequest,
    PredictResponse,
    PredictRow,
    PreloadRequest,
    Priority,
    RowResult,
)
from lorabel.inference.model_connection import ModelConnection, Reply, Request
from lorabel.network import tls_remedy
from lorabel.settings import Settings

MEGABYTE = 2**20
PROBE_TIMEOUT_S = 5.0
ANSWER_GRACE_S = 2.0
BUSY = 503
TOO_LARGE = 413
FIRST_ERROR = 400
# Status of an answer to /v1/preload -> what it says about an adapter.
REFUSALS: Mapping[int, type[LorabelError]] = MappingProxyType({404: NotFoundError, 409: ConflictError})
# How a kept connection fails that the model server has closed meanwhile.
STALE = (RemoteDisconnected, BrokenPipeError, ConnectionResetError)


class ModelClient:
    """Thread-safe. Connections are kept open."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.model_server_url.rstrip("/")
        parts = urlsplit(self._url)
        self._is_tls = parts.scheme == "https"
        self._host, self._port, self._path = parts.hostname or "", parts.port, parts.path
        self._idle: LifoQueue[ModelConnection] = LifoQueue()
        self._max_request_mb = settings.max_request_mb
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
        """Have rows computed.

        Args:
            timeout_s: seconds within which the answer is needed.
            is_gone: returns whether nobody wants the answer any more. It is polled while the answer is awaited.
                When it returns True, our connection is closed, by which the model server notices.

        Returns:
            One result per row, in order.

        Raises:
            ModelServerBusyError: the model server's queue is full.
            RequestTooLargeError: the request is larger than MAX_REQUEST_MB, or the model server refuses its size.
            ModelServerError: the model server cannot be reached or failed, or `is_gone` returned True.
        """
        request = PredictRequest(rows=list(rows), timeout_s=timeout_s, project=project, priority=priority)
        body = request_body.encode(request)
        if len(body) > self._max_request_mb * MEGABYTE:
            # Not sent: the model server would close the connection before it has read all of it.
            raise RequestTooLargeError(
                f"a request of {len(rows)} rows has {len(body) / MEGABYTE:.1f} MB, and the model server takes at "
                f"most {self._max_request_mb} MB (MAX_REQUEST_MB)"
            )
        # The model server answers with what is ready after timeout_s, so the connection must live a little longer.
        content = self._send("POST", "/v1/predict", body, timeout_s + ANSWER_GRACE_S, is_gone)
        answer = PredictResponse.model_validate_json(content)
        if len(answer.rows) != len(rows):
            raise ModelServerError(f"model server answered {len(answer.rows)} rows for {len(rows)}")
        return answer.rows

    def preload(self, adapters: Sequence[str], family: str | None = None, timeout_s: float = 60.0) -> None:
        """Have the model server load adapters before anybody waits for them.

        Args:
            family: name of the family of all of them, if it is known. If it is not loaded, nothing is loaded.

        Raises:
            NotFoundError: the folder of an adapter is missing.
            ConflictError: an adapter was trained on another base model.
            ModelServerError: the model server cannot be reached or failed.
        """
        request = PreloadRequest(adapters=list(adapters), family=family)
        try:
            self._send("POST", "/v1/preload", request.model_dump_json(), timeout_s)
        except ModelServerError as error:
            refusal = REFUSALS.get(error.status_code or 0)
            if refusal is None:
                raise
            raise refusal(str(error)) from error

    def models(self) -> ModelsResponse:
        """What is loaded on the device. Raises ModelServerError."""
        return ModelsResponse.model_validate_json(self._send("GET", "/v1/models", None, PROBE_TIMEOUT_S))

    def families(self, questions: Sequence[FamilyQuestion]) -> list[AnsweringFamily]:
        """Who would answer each of some kinds of questions. Loads nothing. Raises ModelServerError."""
        body = FamiliesRequest(questions=list(questions)).model_dump_json()
        answer = FamiliesResponse.model_validate_json(self._send("POST", "/v1/families", body, PROBE_TIMEOUT_S))
        if len(answer.families) != len(questions):
            raise ModelServerError(f"model server answered {len(answer.families)} of {len(questions)} questions")
        return answer.families

    def close(self) -> None:
        """Close the idle connections."""
        with suppress(Empty):
            while True:
                self._idle.get_nowait().close()

    def _send(
        self,
        method: str,
        path: str,
        body: str | bytes | None,
        timeout_s: float,
        is_gone: Callable[[], bool] | None = None,
    ) -> bytes:
        data = body.encode() if isinstance(body, str) else body or b""
        until = time.monotonic() + timeout_s
        try:
            reply = self._exchange(Request(method, f"{self._path}{path}", self._headers, data, until, is_gone))
        except (HTTPException, OSError, httpcore.RemoteProtocolError) as error:
            raise ModelServerError(
                f"model server at {self._url} cannot be reached ({type(error).__name__}: {error}); "
                + (tls_remedy(error) or "is it running, and is MODEL_SERVER_URL right?")
            ) from error
        if reply.status < FIRST_ERROR:
            return reply.content
        text = reply.content.decode(errors="replace")
        if reply.status == BUSY:
            raise ModelServerBusyError(f"model server is busy: {text}", retry_after_s=reply.retry_after_s)
        if reply.status == TOO_LARGE:
            raise RequestTooLargeError(f"model server answered {reply.status} to {path}: {text[:500]}")
        raise ModelServerError(
            f"model server answered {reply.status} to {path}: {text[:500]}", status_code=reply.status
        )

    def _exchange(self, request: Request) -> Reply:
        """Use a kept connection if there is one. Retry once if it was closed; requests are idempotent."""
        try:
            kept = self._idle.get_nowait()
        except Empty:
            kept = None
        if kept is not None:
            with suppress(*STALE):
                return self._ask(kept, request)
        return self._ask(ModelConnection(self._is_tls, self._host, self._port), request)

    def _ask(self, connection: ModelConnection, request: Request) -> Reply:
        try:
            return connection.ask(request)
        finally:
            if connection.is_lasting:
                self._idle.put(connection)
            else:
                connection.close()
