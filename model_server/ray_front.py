"""The front of the replicas: HTTP as the single model server speaks it, passed on to the right replica.

It understands no more of a request than it needs to choose: the adapter of most rows. A replica answers with the
model server's own app, so every answer is that one's, errors too. Predictions change nothing, so a request whose
replica dies is asked of another one; the client sees nothing of it but the time.
"""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from pydantic import ValidationError
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

from lorabel.messages import ModelsResponse, PredictRequest, PreloadRequest
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


class Front:
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
        most = self._settings.max_request_mb * MEGABYTE
        if int(request.headers.get("content-length", 0)) > most:
            return _failed(413, f"the body is larger than {self._settings.max_request_mb} MB (MAX_REQUEST_MB)")
        body = await request.body()
        asked = Asked(request.method, request.url.path, request.headers.get("authorization"), body)
        match asked.method, asked.path:
            case "POST", "/v1/predict":
                return await self._predict(asked)
            case "POST", "/v1/preload":
                return await self._preload(asked)
            case "GET", "/v1/models":
                return await self._ask_all(asked, _merge_models)
            case "GET", "/metrics":
                return await self._ask_all(asked, _merge_metrics)
        return await self._ask(asked, "", OTHER_TIMEOUT_S)

    async def _predict(self, asked: Asked) -> Answer:
        """At the home of the adapter that most rows have; if that is full, at the next in the adapter's order."""
        try:
            wanted = PredictRequest.model_validate_json(asked.body)
        except ValidationError:
            return await self._ask(asked, "", OTHER_TIMEOUT_S)  # any replica says what is wrong
        # Rows on the base model are at home everywhere.
        adapters = Counter(row.adapter for row in wanted.rows if row.adapter is not None)
        adapter = max(adapters, key=adapters.__getitem__, default="")
        answer = await self._ask(asked, adapter, wanted.timeout_s + GRACE_S, wanted)
        if answer.status == 503 and adapter:
            answer = await self._ask(asked, key_of(adapter, 1), wanted.timeout_s + GRACE_S, wanted)
        return answer

    async def _preload(self, asked: Asked) -> Answer:
        """The first answer that is an error, else the last one."""
        try:
            wanted = PreloadRequest.model_validate_json(asked.body)
        except ValidationError:
            return await self._ask(asked, "", OTHER_TIMEOUT_S)
        answer = _failed(200, "")
        for adapter in wanted.adapters:
            one = replace(asked, body=PreloadRequest(adapters=[adapter]).model_dump_json().encode())
            for place in range(PRELOAD_PLACES):
                answer = await self._ask(one, key_of(adapter, place), OTHER_TIMEOUT_S)
                if answer.status != 200:
                    return answer
        return answer if wanted.adapters else await self._ask(asked, "", OTHER_TIMEOUT_S)

    async def _ask(self, asked: Asked, key: str, timeout_s: float, wanted: PredictRequest | None = None) -> Answer:
        """From another replica if the one that had it died, until the time is over.

        Args:
            wanted: the prediction; asked again, it has only the time that is left.
        """
        now = asyncio.get_running_loop().time
        deadline = now() + timeout_s
        handle = self._replicas.options(session_id=key) if key else self._replicas
        while (left := deadline - now()) > 0:
            try:
                return await asyncio.wait_for(_result(handle, asked), left)
            except RayActorError as error:
                log.warning("%s is asked of another replica: %s", asked.path, error)
                if wanted is not None:
                    left_for_rows = max(0.1, deadline - now() - GRACE_S)
                    again = wanted.model_copy(update={"timeout_s": left_for_rows})
                    asked = replace(asked, body=again.model_dump_json().encode())
            except BackPressureError as error:
                return _failed(503, f"every replica is full: {error}")
            except TimeoutError:
                break
        return _failed(503, f"no replica answered within {timeout_s:g} s")

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
    answer: Answer = await handle.answer.remote(asked)
    return answer


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
