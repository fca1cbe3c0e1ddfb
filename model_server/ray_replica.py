"""One device of several: the single model server's app, asked over Ray instead of a socket."""

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

# As many requests as the single model server has threads.
MOST_ONGOING = 64
HANDED_ON = ("retry-after", "www-authenticate")


@dataclass(frozen=True)
class Asked:
    """What a replica needs of an HTTP request."""

    method: str
    path: str
    authorization: str | None
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What a proxy needs for an HTTP answer; `replica` is the name of the one that gave it."""

    status: int
    content_type: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    replica: str = ""


class Replica:
    """A Ray Serve deployment."""

    def __init__(self, settings: Settings) -> None:
        # Proxies import this file too, and start in a second without torch.
        from model_server.app import ARRIVED, IS_GONE, create_app

        self._arrived, self._is_gone = ARRIVED, IS_GONE
        logs.configure(settings)
        self._client = Client(create_app(settings), use_cookies=False)
        self._threads = ThreadPoolExecutor(MOST_ONGOING, thread_name_prefix="answer")
        self._name: str = serve.get_replica_context().replica_id.unique_id

    async def answer(self, asked: Asked) -> Answer:
        """Cancelled by the proxy when nobody waits any more: then a thread that has it already gives it up."""
        gone = Event()
        said = {self._arrived: time.monotonic(), self._is_gone: gone.is_set}
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._answer, asked, said)
        except asyncio.CancelledError:
            gone.set()
            raise

    def _answer(self, asked: Asked, said: dict[str, Any]) -> Answer:
        headers = {"Content-Type": "application/json"}
        if asked.authorization is not None:
            headers["Authorization"] = asked.authorization
        found = self._client.open(
            asked.path, method=asked.method, data=asked.body, headers=headers, environ_overrides=said
        )
        handed_on = {name: found.headers[name] for name in HANDED_ON if name in found.headers}
        return Answer(found.status_code, found.headers["content-type"], found.data, handed_on, self._name)
