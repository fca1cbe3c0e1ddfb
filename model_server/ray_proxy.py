"""Our proxy in front of the replicas: passes each HTTP request on to the replica that should compute it.

Not to be confused with Ray's own HTTP proxy, which listens at the port and hands each request to one of our
proxies. A client finds the same HTTP API as at the single model server (`model_server/app.py`). A replica answers
with that app, so answers and errors are the same. Our proxy reads of a request only what it needs to choose a
replica: the adapter of most rows, or the project.

Predictions change nothing, so a request whose replica dies is sent to another replica. The client only waits
longer.
"""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from pydantic import ValidationError
from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

from lorabel.database.adapter_folders import NAME
from lorabel.errors import LorabelError
from lorabel.inference import request_body
from lorabel.inference.http_auth import is_authorized
from lorabel.inference.messages import ModelsResponse, PredictRequest, PreloadRequest
from lorabel.settings import Settings
from model_server.adapter_order import routing_key
from model_server.exposition import merged
from model_server.ray_replica import ReplicaAnswer, ReplicaRequest

log = logging.getLogger(__name__)

MEGABYTE = 1024 * 1024
JSON = "application/json"
# An adapter is preloaded at its home, and at the replica that replaces its home.
PRELOAD_REPLICAS = 2
RETRY_AFTER_S = 2
OTHER_TIMEOUT_S = 60.0
# Time after `timeout_s` for the replica's answer, which has the rows that are ready then.
GRACE_S = 1.5
REPLICA_HEADER = "X-Replica"
# The exceptions that the caller gets when a replica, or its machine, dies.
DEATHS = (RayActorError, ObjectLostError, NodeDiedError, WorkerCrashedError)
# Pauses before the retries. There are no more than these, since the request itself may kill the replicas.
PAUSES_S = (0.2, 1.0)


class Proxy:
    """A Ray Serve deployment that answers HTTP requests by calls to the replicas.

    The calls for one HTTP request are made one after the other, since Ray's router tells calls apart by the HTTP
    request that they belong to.

    Args:
        replicas: handle of the deployment of replicas.
    """

    def __init__(self, replicas: DeploymentHandle, settings: Settings) -> None:
        self._replicas, self._settings = replicas, settings

    async def __call__(self, request: Request) -> Response:
        """Answer an HTTP request. The header X-Replica names the replica that computed the answer."""
        answer = await self._answer(request)
        headers = {**answer.headers, **({REPLICA_HEADER: answer.replica} if answer.replica else {})}
        return Response(answer.body, answer.status, headers, answer.content_type)

    async def _answer(self, http_request: Request) -> ReplicaAnswer:
        authorization = http_request.headers.get("authorization")
        request = ReplicaRequest(http_request.method, http_request.url.path, authorization, b"")
        credentials = self._settings.basic_auth
        if credentials is not None and not is_authorized(request.authorization, credentials):
            # The body is not read without the password. The replica knows which paths need none.
            return await self._call(request, "", _deadline())
        body = await _body(http_request, self._settings.max_request_mb * MEGABYTE)
        if body is None:
            return _error(413, f"the body is larger than {self._settings.max_request_mb} MB (MAX_REQUEST_MB)")
        request = replace(request, body=body)
        match request.method, request.path:
            case "POST", "/v1/predict":
                return await self._predict(request)
            case "POST", "/v1/preload":
                return await self._preload(request)
            case "GET", "/v1/models":
                return await self._call_all(request, _merge_models)
            case "GET", "/metrics":
                return await self._call_all(request, _merge_metrics)
        return await self._call(request, "", _deadline())

    async def _predict(self, request: ReplicaRequest) -> ReplicaAnswer:
        """Call the home of the request's key; if the home is full, call the second replica of the order."""
        try:
            prediction = request_body.decode(request.body, self._settings.max_waiting)
        except (ValidationError, LorabelError):
            return await self._call(request, "", _deadline())  # any replica answers what is wrong
        key, deadline = _key(prediction), _deadline(prediction.timeout_s + GRACE_S)
        answer = await self._call(request, key, deadline, prediction)
        if answer.status == 503 and time.monotonic() < deadline - GRACE_S:
            request = _with_time_left(request, prediction, deadline)
            answer = await self._call(request, routing_key(key, 1), deadline, prediction)
        return answer

    async def _preload(self, request: ReplicaRequest) -> ReplicaAnswer:
        """Preload each adapter at PRELOAD_REPLICAS replicas; return the first error, else the last answer."""
        try:
            preload = PreloadRequest.model_validate_json(request.body)
        except ValidationError:
            return await self._call(request, "", _deadline())
        answer = _error(200, "")
        for adapter in preload.adapters:
            body = preload.model_copy(update={"adapters": [adapter]}).model_dump_json().encode()
            for position in range(PRELOAD_REPLICAS):
                key = routing_key(adapter, position) if NAME.fullmatch(adapter) else ""
                answer = await self._call(replace(request, body=body), key, _deadline())
                if answer.status != 200:
                    return answer
        return answer if preload.adapters else await self._call(request, "", _deadline())

    async def _call(
        self, request: ReplicaRequest, key: str, deadline: float, prediction: PredictRequest | None = None
    ) -> ReplicaAnswer:
        """Call one replica; if it dies, call another as long as there is time.

        Args:
            key: a `routing_key`; empty lets Ray choose the replica.
            deadline: by `time.monotonic`.
            prediction: the request's content, for which a retry has only the time that is left.
        """
        handle = self._replicas.options(session_id=key) if key else self._replicas
        for pause_s in (*PAUSES_S, None):
            try:
                return await asyncio.wait_for(_result(handle, request), deadline - time.monotonic())
            except BackPressureError as error:
                return _error(503, f"every replica is full: {error}")
            except TimeoutError:
                break
            except DEATHS as error:
                log.warning("a replica died while it had %s: %s", request.path, error)
                if pause_s is None:
                    return _error(502, f"{len(PAUSES_S) + 1} replicas died while they had this request")
                await asyncio.sleep(pause_s)
                if prediction is not None:
                    request = _with_time_left(request, prediction, deadline)
        return _error(503, "no replica answered in time")

    async def _call_all(
        self, request: ReplicaRequest, merge: Callable[[Sequence[ReplicaAnswer]], bytes]
    ) -> ReplicaAnswer:
        """Call every replica and merge the answers; replicas that die meanwhile are left out."""
        results = await self._replicas.broadcast("answer", request).results_async(
            timeout_s=OTHER_TIMEOUT_S, return_exceptions=True
        )
        answers = [result for result in results if isinstance(result, ReplicaAnswer)]
        if not answers:
            return _error(503, f"no replica answered: {results}")
        errors = [answer for answer in answers if answer.status != 200]
        return errors[0] if errors else replace(answers[0], body=merge(answers), replica="")


async def _result(handle: DeploymentHandle, request: ReplicaRequest) -> ReplicaAnswer:
    """Wait for a replica's answer. If this is cancelled, the call at the replica is cancelled, too."""
    response = handle.answer.remote(request)
    try:
        answer: ReplicaAnswer = await response
    except asyncio.CancelledError:
        response.cancel()
        raise
    return answer


async def _body(http_request: Request, max_bytes: int) -> bytes | None:
    """The body; None if it is larger than `max_bytes`, by its Content-Length or by what arrives."""
    body = bytearray()
    if _content_length(http_request) > max_bytes:
        return None
    async for chunk in http_request.stream():
        body += chunk
        if len(body) > max_bytes:
            return None
    return bytes(body)


def _content_length(http_request: Request) -> int:
    """In bytes; 0 if the header is missing or is no number, since the bytes that arrive are counted anyway."""
    try:
        return int(http_request.headers.get("content-length", 0))
    except ValueError:
        return 0


def _key(prediction: PredictRequest) -> str:
    """The adapter of most rows; without adapters the project, so that one replica caches its pictures."""
    names = (row.adapter for row in prediction.rows if row.adapter is not None)
    counts = Counter(name for name in names if NAME.fullmatch(name))
    return max(counts, key=counts.__getitem__, default=f"p{prediction.project}")


def _deadline(timeout_s: float = OTHER_TIMEOUT_S) -> float:
    return time.monotonic() + timeout_s


def _with_time_left(request: ReplicaRequest, prediction: PredictRequest, deadline: float) -> ReplicaRequest:
    """The request with the `timeout_s` that is left until the deadline."""
    left_s = max(0.1, deadline - GRACE_S - time.monotonic())
    return replace(request, body=request_body.encode(prediction.model_copy(update={"timeout_s": left_s})))


def _merge_models(answers: Sequence[ReplicaAnswer]) -> bytes:
    """What all replicas together hold. An adapter that several hold is listed once."""
    responses = [ModelsResponse.model_validate_json(answer.body) for answer in answers]
    totals = {
        "max_batch": min(models.max_batch for models in responses),
        "adapters": list(dict.fromkeys(name for models in responses for name in models.adapters)),
        "adapter_bytes": sum(models.adapter_bytes for models in responses),
    }
    return responses[0].model_copy(update=totals).model_dump_json().encode()


def _merge_metrics(answers: Sequence[ReplicaAnswer]) -> bytes:
    return merged("replica", {answer.replica: answer.body.decode() for answer in answers})


def _error(status: int, reason: str) -> ReplicaAnswer:
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    return ReplicaAnswer(status, JSON, json.dumps({"error": reason}).encode(), headers)
