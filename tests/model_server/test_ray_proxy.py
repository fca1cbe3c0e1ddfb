"""Our proxy without a cluster: which replicas it calls, how often, and what it reads, with scripted replicas."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

pytest.importorskip("ray", reason="the extra `ray` is not installed: make test-ray")

from ray.exceptions import ActorDiedError, NodeDiedError, OwnerDiedError, WorkerCrashedError
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from lorabel.inference.messages import PredictRequest, PredictRow
from lorabel.settings import Settings
from model_server.adapter_order import routing_key
from model_server.ray_proxy import GRACE_S, Proxy
from model_server.ray_replica import ReplicaAnswer, ReplicaRequest

pytestmark = pytest.mark.ray

OK = ReplicaAnswer(200, "application/json", b"{}")
FULL = ReplicaAnswer(503, "application/json", b"{}", {"retry-after": "2"})
ADAPTER = "p1.v1/label"


class Replicas:
    """A fake deployment handle. Each call gets the next of `answers`: an answer, an error, or seconds to wait."""

    def __init__(self, *answers: ReplicaAnswer | Exception | float) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[str, ReplicaRequest]] = []
        self.cancelled = 0
        self._key = ""

    def options(self, session_id: str) -> "Replicas":
        self._key = session_id
        return self

    @property
    def answer(self) -> "Replicas":
        return self

    def remote(self, request: ReplicaRequest) -> "Response":
        self.calls.append((self._key, request))
        return Response(self, self.answers.pop(0))


class Response:
    """What a call returns. If `answer` is a number, the call is answered with OK after so many seconds."""

    def __init__(self, replicas: Replicas, answer: ReplicaAnswer | Exception | float) -> None:
        self._replicas, self._answer = replicas, answer

    def cancel(self) -> None:
        self._replicas.cancelled += 1

    def __await__(self):  # type: ignore[no-untyped-def]
        if isinstance(self._answer, float):
            yield from asyncio.sleep(self._answer).__await__()
            return OK
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def post(
    replicas: Replicas,
    body: str | bytes | Callable[[], AsyncIterator[bytes]],
    path: str = "/v1/predict",
    **options: object,
) -> httpx.Response:
    """Send a POST request to a proxy. `options`: the proxy's settings, and the client's `auth`."""
    auth = options.pop("auth", None)
    proxy = Proxy(replicas, Settings(**options))  # type: ignore[arg-type]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (await proxy(Request(scope, receive)))(scope, receive, send)

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as client:
            content = body() if callable(body) else body
            return await client.post(path, content=content, auth=auth)  # type: ignore[arg-type]

    return asyncio.run(send())


def predict_body(adapter: str | None = ADAPTER, timeout_s: float = 10.0, project: int = 7) -> str:
    row = PredictRow(kind="labels", input={}, adapter=adapter)
    return PredictRequest(rows=[row], timeout_s=timeout_s, project=project).model_dump_json()


def timeout_of(request: ReplicaRequest) -> float:
    return PredictRequest.model_validate_json(request.body).timeout_s


@pytest.mark.parametrize(
    "death",
    [ActorDiedError(), NodeDiedError("gone"), WorkerCrashedError(), OwnerDiedError("00", "", "")],
    ids=lambda death: type(death).__name__,
)
def test_a_request_whose_replica_dies_is_sent_to_another_with_the_time_that_is_left(death: Exception) -> None:
    replicas = Replicas(death, OK)
    assert post(replicas, predict_body()).status_code == 200
    first, second = (timeout_of(request) for _, request in replicas.calls)
    assert first == 10 and 9 < second < 9.85


def test_a_request_that_kills_its_replicas_is_tried_three_times() -> None:
    replicas = Replicas(*[ActorDiedError()] * 9)
    assert post(replicas, predict_body(timeout_s=60)).status_code == 502
    assert len(replicas.calls) == 3


@pytest.mark.parametrize(("adapter", "key"), [(ADAPTER, ADAPTER), (None, "p7"), ("a\0x", "p7")])
def test_a_request_that_finds_its_home_full_goes_to_the_second_replica_of_the_order(
    adapter: str | None, key: str
) -> None:
    replicas = Replicas(FULL, OK)
    assert post(replicas, predict_body(adapter)).status_code == 200
    assert [called_key for called_key, _ in replicas.calls] == [key, routing_key(key, 1)]


def test_all_attempts_share_the_timeout_and_a_late_call_is_cancelled() -> None:
    replicas = Replicas(60.0, OK)
    started = time.monotonic()
    assert post(replicas, predict_body(timeout_s=0.5)).status_code == 503
    assert time.monotonic() - started < 0.5 + GRACE_S + 1
    assert (len(replicas.calls), replicas.cancelled) == (1, 1)


def test_preloading_an_invalid_adapter_name_may_be_answered_by_any_replica() -> None:
    replicas = Replicas(ReplicaAnswer(404, "application/json", b"{}"))
    assert post(replicas, '{"adapters": ["a\\u0000x"]}', "/v1/preload").status_code == 404
    assert [key for key, _ in replicas.calls] == [""]


def test_the_body_is_not_read_without_the_password() -> None:
    refused = ReplicaAnswer(401, "application/json", b"{}")
    replicas = Replicas(refused)
    options = {"basic_auth_user": "u", "basic_auth_pass": "p"}
    assert post(replicas, predict_body(), auth=("u", "wrong"), **options).status_code == 401
    assert [request.body for _, request in replicas.calls] == [b""]
    replicas = Replicas(OK)
    assert post(replicas, predict_body(), auth=("u", "p"), **options).status_code == 200


def test_a_body_in_chunks_is_not_read_beyond_the_limit() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 2**16
            yield b"x" * 2**16

    assert post(Replicas(), endless, max_request_mb=1).status_code == 413
    assert read < 2**21
