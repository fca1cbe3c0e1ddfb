"""The proxy without a cluster: whom it asks, how often, and what it reads, of replicas that answer as told."""

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
from model_server.ray_proxy import GRACE_S, Proxy
from model_server.ray_replica import Answer, Asked
from model_server.ray_router import key_of

pytestmark = pytest.mark.ray

FINE = Answer(200, "application/json", b"{}")
FULL = Answer(503, "application/json", b"{}", {"retry-after": "2"})
ADAPTER = "p1.v1/label"


class Replicas:
    """A handle, as far as a proxy needs one; `answers` are given one after the other."""

    def __init__(self, *answers: Answer | Exception | float) -> None:
        self.left = list(answers)
        self.asked: list[tuple[str, Asked]] = []
        self.given_up = 0
        self._key = ""

    def options(self, session_id: str) -> "Replicas":
        self._key = session_id
        return self

    @property
    def answer(self) -> "Replicas":
        return self

    def remote(self, asked: Asked) -> "Response":
        self.asked.append((self._key, asked))
        return Response(self, self.left.pop(0))


class Response:
    """A number is the seconds after which it answers."""

    def __init__(self, replicas: Replicas, answer: Answer | Exception | float) -> None:
        self._replicas, self._answer = replicas, answer

    def cancel(self) -> None:
        self._replicas.given_up += 1

    def __await__(self):  # type: ignore[no-untyped-def]
        if isinstance(self._answer, float):
            yield from asyncio.sleep(self._answer).__await__()
            return FINE
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def post(
    replicas: Replicas,
    body: str | bytes | Callable[[], AsyncIterator[bytes]],
    path: str = "/v1/predict",
    **how: object,
) -> httpx.Response:
    """`how`: the proxy's settings, and `auth`."""
    auth = how.pop("auth", None)
    proxy = Proxy(replicas, Settings(**how))  # type: ignore[arg-type]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (await proxy(Request(scope, receive)))(scope, receive, send)

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as client:
            content = body() if callable(body) else body
            return await client.post(path, content=content, auth=auth)  # type: ignore[arg-type]

    return asyncio.run(send())


def wanted(adapter: str | None = ADAPTER, timeout_s: float = 10.0, project: int = 7) -> str:
    row = PredictRow(kind="labels", input={}, adapter=adapter)
    return PredictRequest(rows=[row], timeout_s=timeout_s, project=project).model_dump_json()


def time_left(asked: Asked) -> float:
    return PredictRequest.model_validate_json(asked.body).timeout_s


@pytest.mark.parametrize(
    "death",
    [ActorDiedError(), NodeDiedError("gone"), WorkerCrashedError(), OwnerDiedError("00", "", "")],
    ids=lambda death: type(death).__name__,
)
def test_what_a_dying_replica_had_is_asked_of_another_in_the_time_that_is_left(death: Exception) -> None:
    replicas = Replicas(death, FINE)
    assert post(replicas, wanted()).status_code == 200
    first, second = (time_left(asked) for _, asked in replicas.asked)
    assert first == 10 and 9 < second < 9.85


def test_a_request_that_kills_its_replicas_gets_no_fourth() -> None:
    replicas = Replicas(*[ActorDiedError()] * 9)
    assert post(replicas, wanted(timeout_s=60)).status_code == 502
    assert len(replicas.asked) == 3


@pytest.mark.parametrize(("adapter", "key"), [(ADAPTER, ADAPTER), (None, "p7"), ("a\0x", "p7")])
def test_a_full_home_is_followed_by_the_second_in_the_order(adapter: str | None, key: str) -> None:
    replicas = Replicas(FULL, FINE)
    assert post(replicas, wanted(adapter)).status_code == 200
    assert [asked for asked, _ in replicas.asked] == [key, key_of(key, 1)]


def test_both_attempts_together_have_the_time_of_one_and_what_is_late_is_given_up() -> None:
    replicas = Replicas(60.0, FINE)
    began = time.monotonic()
    assert post(replicas, wanted(timeout_s=0.5)).status_code == 503
    assert time.monotonic() - began < 0.5 + GRACE_S + 1
    assert (len(replicas.asked), replicas.given_up) == (1, 1)


def test_a_name_that_is_no_adapters_is_preloaded_nowhere_in_particular() -> None:
    replicas = Replicas(Answer(404, "application/json", b"{}"))
    assert post(replicas, '{"adapters": ["a\\u0000x"]}', "/v1/preload").status_code == 404
    assert [key for key, _ in replicas.asked] == [""]


def test_of_a_stranger_no_body_is_read() -> None:
    refused = Answer(401, "application/json", b"{}")
    replicas = Replicas(refused)
    how = {"basic_auth_user": "u", "basic_auth_pass": "p"}
    assert post(replicas, wanted(), auth=("u", "wrong"), **how).status_code == 401
    assert [asked.body for _, asked in replicas.asked] == [b""]
    replicas = Replicas(FINE)
    assert post(replicas, wanted(), auth=("u", "p"), **how).status_code == 200


def test_a_body_in_chunks_is_read_no_further_than_the_limit() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 2**16
            yield b"x" * 2**16

    assert post(Replicas(), endless, max_request_mb=1).status_code == 413
    assert read < 2**21
