"""The proxy of the replicas: HTTP as the single model server speaks it, passed on to the right replica.

It understands no more of a request than it needs to choose: the adapter of most rows, or the project. A replica
answers with the model server's own app, so every answer is that one's, errors too. Predictions change nothing, so
a request whose replica dies is asked of another one; the client sees nothing of it but the time.
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
from lorabel.inference.http_auth import is_right
from lorabel.inference.messages import ModelsResponse, PredictRequest, PreloadRequest
from lorabel.settings import Settings
from model_server.exposition import merged
from model_server.ray_replica import Answer, Asked
from model_server.ray_router import key_of

log = logging.getLogger(__name__)

MEGABYTE = 1024 * 1024
JSON = "application/json"
# An adapter is preloaded at its home and at the replica that takes over from it.
PRELOAD_PLACES = 2
RETRY_AFTER_S = 2
OTHER_TIMEOUT_S = 60.0
# The replica answers what is ready at the time limit, as the single model server does.
GRACE_S = 1.5
REPLICA_HEADER = "X-Replica"
# What the death of a replica, or of its machine, looks like from here.
DEATHS = (RayActorError, ObjectLostError, NodeDiedError, WorkerCrashedError)
# One more try after each, and no more: it may be the request that kills them.
PAUSES_S = (0.2, 1.0)


class Proxy:
    """A Ray Serve deployment; `replicas` is the handle of the one behind it.

    One call after the other per HTTP request: Ray's router tells calls apart by the request that they belong to.
    """

    def __init__(self, replicas: DeploymentHandle, settings: Settings) -> None:
        self._replicas, self._settings = replicas, settings

    async def __call__(self, request: Request) -> Response:
        answer = await self._answer(request)
        headers = {**answer.headers, **({REPLICA_HEADER: answer.replica} if answer.replica else {})}
        return Response(answer.body, answer.status, headers, answer.content_type)

    async def _answer(self, request: Request) -> Answer:
        asked = Asked(request.method, request.url.path, request.headers.get("authorization"), b"")
        expected = self._settings.basic_auth
        if expected is not None and not is_right(asked.authorization, expected):
            # A stranger's body is not read; the replica knows what strangers may ask.
            return await self._ask(asked, "", _deadline())
        body = await _body(request, self._settings.max_request_mb * MEGABYTE)
        if body is None:
            return _failed(413, f"the body is larger than {self._settings.max_request_mb} MB (MAX_REQUEST_MB)")
        asked = replace(asked, body=body)
        match asked.method, asked.path:
            case "POST", "/v1/predict":
                return await self._predict(asked)
            case "POST", "/v1/preload":
                return await self._preload(asked)
            case "GET", "/v1/models":
                return await self._ask_all(asked, _merge_models)
            case "GET", "/metrics":
                return await self._ask_all(asked, _merge_metrics)
        return await self._ask(asked, "", _deadline())

    async def _predict(self, asked: Asked) -> Answer:
        """At the home of its key; if that is full, at the next in the key's order, in what is left of its time."""
        try:
            wanted = PredictRequest.model_validate_json(asked.body)
        except ValidationError:
            return await self._ask(asked, "", _deadline())  # any replica says what is wrong
        key, deadline = _key(wanted), _deadline(wanted.timeout_s + GRACE_S)
        answer = await self._ask(asked, key, deadline, wanted)
        if answer.status == 503 and time.monotonic() < deadline - GRACE_S:
            answer = await self._ask(_again(asked, wanted, deadline), key_of(key, 1), deadline, wanted)
        return answer

    async def _preload(self, asked: Asked) -> Answer:
        """The first answer that is an error, else the last one."""
        try:
            wanted = PreloadRequest.model_validate_json(asked.body)
        except ValidationError:
            return await self._ask(asked, "", _deadline())
        answer = _failed(200, "")
        for adapter in wanted.adapters:
            one = replace(asked, body=PreloadRequest(adapters=[adapter]).model_dump_json().encode())
            for place in range(PRELOAD_PLACES):
                key = key_of(adapter, place) if NAME.fullmatch(adapter) else ""
                answer = await self._ask(one, key, _deadline())
                if answer.status != 200:
                    return answer
        return answer if wanted.adapters else await self._ask(asked, "", _deadline())

    async def _ask(self, asked: Asked, key: str, deadline: float, wanted: PredictRequest | None = None) -> Answer:
        """From another replica if the one that had it died, as long as there is time.

        Args:
            deadline: as of `time.monotonic`.
            wanted: the prediction; asked again, it has only the time that is left.
        """
        handle = self._replicas.options(session_id=key) if key else self._replicas
        for pause_s in (*PAUSES_S, None):
            try:
                return await asyncio.wait_for(_result(handle, asked), deadline - time.monotonic())
            except BackPressureError as error:
                return _failed(503, f"every replica is full: {error}")
            except TimeoutError:
                break
            except DEATHS as error:
                log.warning("a replica died while it had %s: %s", asked.path, error)
                if pause_s is None:
                    return _failed(502, f"{len(PAUSES_S) + 1} replicas died while they had this request")
                await asyncio.sleep(pause_s)
                if wanted is not None:
                    asked = _again(asked, wanted, deadline)
        return _failed(503, "no replica answered in time")

    async def _ask_all(self, asked: Asked, merge: Callable[[Sequence[Answer]], bytes]) -> Answer:
        """Of every replica, without those that die meanwhile."""
        found = await self._replicas.broadcast("answer", asked).results_async(
            timeout_s=OTHER_TIMEOUT_S, return_exceptions=True
        )
        answers = [answer for answer in found if isinstance(answer, Answer)]
        if not answers:
            return _failed(503, f"no replica answered: {found}")
        refused = [answer for answer in answers if answer.status != 200]
        return refused[0] if refused else replace(answers[0], body=merge(answers), replica="")


async def _result(handle: DeploymentHandle, asked: Asked) -> Answer:
    """Cancelled, it tells the replica."""
    response = handle.answer.remote(asked)
    try:
        answer: Answer = await response
    except asyncio.CancelledError:
        response.cancel()
        raise
    return answer


async def _body(request: Request, most: int) -> bytes | None:
    """None if it is larger than `most` bytes, be that announced or not."""
    body = bytearray()
    if _announced(request) > most:
        return None
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            return None
    return bytes(body)


def _announced(request: Request) -> int:
    """0 where there is no number: what comes is counted anyway."""
    try:
        return int(request.headers.get("content-length", 0))
    except ValueError:
        return 0


def _key(wanted: PredictRequest) -> str:
    """The adapter that most rows have; without any the project, whose pictures one replica then remembers."""
    names = (row.adapter for row in wanted.rows if row.adapter is not None)
    adapters = Counter(name for name in names if NAME.fullmatch(name))
    return max(adapters, key=adapters.__getitem__, default=f"p{wanted.project}")


def _deadline(timeout_s: float = OTHER_TIMEOUT_S) -> float:
    return time.monotonic() + timeout_s


def _again(asked: Asked, wanted: PredictRequest, deadline: float) -> Asked:
    """With the time that is left."""
    left_s = max(0.1, deadline - GRACE_S - time.monotonic())
    return replace(asked, body=wanted.model_copy(update={"timeout_s": left_s}).model_dump_json().encode())


def _merge_models(answers: Sequence[Answer]) -> bytes:
    """What the replicas hold together; of several that hold an adapter it is named once."""
    found = [ModelsResponse.model_validate_json(answer.body) for answer in answers]
    together = {
        "max_batch": min(models.max_batch for models in found),
        "adapters": list(dict.fromkeys(name for models in found for name in models.adapters)),
        "adapter_bytes": sum(models.adapter_bytes for models in found),
    }
    return found[0].model_copy(update=together).model_dump_json().encode()


def _merge_metrics(answers: Sequence[Answer]) -> bytes:
    return merged("replica", {answer.replica: answer.body.decode() for answer in answers})


def _failed(status: int, reason: str) -> Answer:
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    return Answer(status, JSON, json.dumps({"error": reason}).encode(), headers)
