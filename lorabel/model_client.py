"""The client of the model server, for backend and workers.

On httpcore, as `lorabel/media.py` is: a prediction is one POST, and what httpx adds around it costs as much again.
"""

import base64
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import httpcore

from lorabel.errors import ModelServerBusyError, ModelServerError
from lorabel.messages import (
    Lane,
    ModelsResponse,
    PredictRequest,
    PredictResponse,
    PredictRow,
    PreloadRequest,
    RowResult,
)
from lorabel.settings import Settings

PROBE_TIMEOUT_S = 5.0
ANSWER_GRACE_S = 2.0
LOOK_EVERY_S = 0.2
BUSY = 503
LEAST_ERROR = 400


class ModelClient:
    """Thread-safe; connections are kept."""

    def __init__(self, settings: Settings) -> None:
        self._caller = _Caller()
        self._pool = httpcore.ConnectionPool(
            max_connections=256, max_keepalive_connections=64, network_backend=_Backend(self._caller)
        )
        self._url = settings.model_server_url.rstrip("/")
        self._headers: dict[bytes | str, bytes | str] = {"Content-Type": "application/json"}
        if settings.basic_auth is not None:
            token = base64.b64encode(":".join(settings.basic_auth).encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"

    def predict(
        self,
        rows: Sequence[PredictRow],
        timeout_s: float,
        project: int,
        lane: Lane = Lane.INTERACTIVE,
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
        request = PredictRequest(rows=list(rows), timeout_s=timeout_s, project=project, lane=lane)
        self._caller.is_gone = is_gone
        try:
            # It answers what is ready at the time limit, so the connection must live a little longer.
            body = self._post("/v1/predict", request.model_dump_json(), timeout_s + ANSWER_GRACE_S)
        finally:
            self._caller.is_gone = None
        answer = PredictResponse.model_validate_json(body)
        if len(answer.rows) != len(rows):
            raise ModelServerError(f"model server answered {len(answer.rows)} rows for {len(rows)}")
        return answer.rows

    def preload(self, adapters: Sequence[str], timeout_s: float = 60.0) -> None:
        """Have adapters in memory before anybody waits for them."""
        self._post("/v1/preload", PreloadRequest(adapters=list(adapters)).model_dump_json(), timeout_s)

    def models(self) -> ModelsResponse:
        return ModelsResponse.model_validate_json(self._send("GET", "/v1/models", None, PROBE_TIMEOUT_S))

    def close(self) -> None:
        self._pool.close()

    def _post(self, path: str, body: str, timeout_s: float) -> bytes:
        return self._send("POST", path, body, timeout_s)

    def _send(self, method: str, path: str, body: str | None, timeout_s: float) -> bytes:
        timeout = {"connect": PROBE_TIMEOUT_S, "read": timeout_s, "write": timeout_s, "pool": timeout_s}
        try:
            answer = self._pool.request(
                method,
                f"{self._url}{path}",
                content=body.encode() if body is not None else None,
                headers=self._headers,
                extensions={"timeout": timeout},
            )
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as error:
            raise ModelServerError(
                f"model server at {self._url} cannot be reached ({type(error).__name__}: {error}); "
                "is it running, and is MODEL_SERVER_URL right?"
            ) from error
        text = answer.content.decode(errors="replace")
        if answer.status == BUSY:
            raise ModelServerBusyError(f"model server is busy: {text}", retry_after_s=_retry_after_s(answer))
        if answer.status >= LEAST_ERROR:
            raise ModelServerError(f"model server answered {answer.status} to {path}: {text[:500]}")
        return answer.content


def _retry_after_s(answer: httpcore.Response) -> int:
    headers = {name.lower(): value for name, value in answer.headers}
    return int(headers.get(b"retry-after", b"1"))


class _Caller(threading.local):
    """For whom this thread waits."""

    is_gone: Callable[[], bool] | None = None


class _Stream(httpcore.NetworkStream):
    """Looks up from waiting now and then: is anybody still interested?"""

    def __init__(self, inner: httpcore.NetworkStream, caller: _Caller) -> None:
        self._inner, self._caller = inner, caller

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        is_gone = self._caller.is_gone
        if is_gone is None or timeout is None:
            return self._inner.read(max_bytes, timeout)
        until = time.monotonic() + timeout
        while True:
            left = until - time.monotonic()
            try:
                return self._inner.read(max_bytes, max(0.0, min(left, LOOK_EVERY_S)))
            except httpcore.ReadTimeout:
                if left <= LOOK_EVERY_S:
                    raise
                if is_gone():
                    raise httpcore.ReadError("whoever asked has hung up") from None

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(*args, **options), self._caller)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, caller: _Caller) -> None:
        self._caller = caller
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._plain.connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(stream, self._caller)
