"""One replica of several, each with a device of its own: the single model server's app, called through Ray."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from ray import serve
from werkzeug.test import Client

from lorabel import logs
from lorabel.settings import Settings

# Requests that a replica takes at the same time, each in a thread.
MAX_ONGOING = 64
FORWARDED_HEADERS = ("retry-after", "www-authenticate")


@dataclass(frozen=True)
class ReplicaRequest:
    """The parts of an HTTP request that a replica needs. `authorization` is the header of that name."""

    method: str
    path: str
    authorization: str | None
    body: bytes


@dataclass(frozen=True)
class ReplicaAnswer:
    """The parts of an HTTP answer that a proxy needs.

    Args:
        replica: name of the replica that answered; empty if the proxy itself did, or merged several answers.
    """

    status: int
    content_type: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    replica: str = ""


class Replica:
    """A Ray Serve deployment: answers requests as the single model server does."""

    def __init__(self, settings: Settings) -> None:
        # Imported here, since our proxies import this module too, and start in a second without torch.
        from model_server.app import ARRIVED_AT, IS_CLIENT_GONE, create_app

        self._arrived_at, self._is_client_gone = ARRIVED_AT, IS_CLIENT_GONE
        logs.configure(settings)
        # Other replicas have the same cores, so each has decoders only if somebody wants them.
        settings = settings.model_copy(update={"decoders": settings.decoders or 0})
        self._client = Client(create_app(settings), use_cookies=False)
        self._threads = ThreadPoolExecutor(MAX_ONGOING, thread_name_prefix="answer")
        self._name: str = serve.get_replica_context().replica_id.unique_id

    async def answer(self, request: ReplicaRequest) -> ReplicaAnswer:
        """Answer a request in a thread.

        If the proxy cancels this call, the app is told that the client has gone, so a thread that has the request
        already gives it up.
        """
        is_cancelled = Event()
        environ = {self._arrived_at: time.monotonic(), self._is_client_gone: is_cancelled.is_set}
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._answer, request, environ)
        except asyncio.CancelledError:
            is_cancelled.set()
            raise

    def _answer(self, request: ReplicaRequest, environ: dict[str, Any]) -> ReplicaAnswer:
        """Call the app. `environ` is put over the WSGI environment."""
        headers = {"Content-Type": "application/json"}
        if request.authorization is not None:
            headers["Authorization"] = request.authorization
        response = self._client.open(
            request.path, method=request.method, data=request.body, headers=headers, environ_overrides=environ
        )
        forwarded = {name: response.headers[name] for name in FORWARDED_HEADERS if name in response.headers}
        return ReplicaAnswer(
            response.status_code, response.headers["content-type"], response.data, forwarded, self._name
        )
