"""The client of the model server's HTTP API."""

from collections.abc import Sequence

import httpx

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


class ModelClient:
    """Thread-safe; connections are kept."""

    def __init__(self, settings: Settings) -> None:
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=64)
        self._http = httpx.Client(
            base_url=settings.model_server_url, auth=settings.basic_auth, limits=limits, trust_env=False
        )
        self._url = settings.model_server_url

    def predict(
        self, rows: Sequence[PredictRow], timeout_s: float, project: int, lane: Lane = Lane.INTERACTIVE
    ) -> list[RowResult]:
        """One result per row, in order.

        Raises:
            ModelServerBusyError: its queue is full.
            ModelServerError: it cannot be reached or failed.
        """
        request = PredictRequest(rows=list(rows), timeout_s=timeout_s, project=project, lane=lane)
        # It answers what is ready at the time limit, so the connection must live a little longer.
        answer = PredictResponse.model_validate_json(
            self._post("/v1/predict", request.model_dump_json(), timeout_s + ANSWER_GRACE_S)
        )
        if len(answer.rows) != len(rows):
            raise ModelServerError(f"model server answered {len(answer.rows)} rows for {len(rows)}")
        return answer.rows

    def preload(self, adapters: Sequence[str], timeout_s: float = 60.0) -> None:
        """Have adapters in memory before anybody waits for them."""
        self._post("/v1/preload", PreloadRequest(adapters=list(adapters)).model_dump_json(), timeout_s)

    def models(self) -> ModelsResponse:
        return ModelsResponse.model_validate_json(self._send("GET", "/v1/models", None, PROBE_TIMEOUT_S))

    def close(self) -> None:
        self._http.close()

    def _post(self, path: str, body: str, timeout_s: float) -> bytes:
        return self._send("POST", path, body, timeout_s)

    def _send(self, method: str, path: str, body: str | None, timeout_s: float) -> bytes:
        headers = {"Content-Type": "application/json"}
        timeout = httpx.Timeout(timeout_s, connect=PROBE_TIMEOUT_S)
        try:
            answer = self._http.request(method, path, content=body, headers=headers, timeout=timeout)
        except httpx.HTTPError as error:
            raise ModelServerError(
                f"model server at {self._url} cannot be reached ({type(error).__name__}: {error}); "
                "is it running, and is MODEL_SERVER_URL right?"
            ) from error
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            retry_after_s = int(answer.headers.get("Retry-After", "1"))
            raise ModelServerBusyError(f"model server is busy: {answer.text}", retry_after_s=retry_after_s)
        if answer.is_error:
            raise ModelServerError(f"model server answered {answer.status_code} to {path}: {answer.text[:500]}")
        return answer.content
