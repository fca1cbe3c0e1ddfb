"""A server with OpenAI's API for completions, such as vLLM, that writes for us: GENERATOR_URL.

    POST /v1/completions          {"model": "p1.v2/summary@3f2a...", "prompt": [1, 9690, ...], "max_tokens": 256}
    POST /v1/load_lora_adapter    {"lora_name": "p1.v2/summary@3f2a...", "lora_path": "/adapters/p1.v2/summary"}
    POST /v1/unload_lora_adapter  {"lora_name": "p1.v2/summary@3f2a..."}

Prompts are sent as tokens. So the server reads what the model was trained on, and no text of a task becomes a
special token there. Each adapter is a model of its own, whose name ends with a digest of its weights: a name never
comes to mean other weights, even if a new database counts its versions from 1 again.
"""

import asyncio
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from lorabel.errors import SettingsError, UnreadableError
from lorabel.network import client_options
from lorabel.settings import Settings

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
# Adapters that stay on the server; those that were used least recently are taken away.
MOST_ADAPTERS = 256
T = TypeVar("T")
NOT_FOUND, REFUSED, BUSY, FIRST_FAULT = 404, (401, 403), 429, 500


class Completion(NamedTuple):
    """What the server has written.

    Attributes:
        probabilities: of its tokens; empty if the server names none.
        is_ended: whether the model has ended the text.
    """

    text: str
    probabilities: tuple[float, ...]
    is_ended: bool


class _Logprobs(BaseModel):
    token_logprobs: list[float | None] = []


class _Choice(BaseModel):
    text: str
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Answer(BaseModel):
    choices: list[_Choice]


class CompletionServer:
    """The client of one server. Thread-safe: requests run in a thread of its own, all at once.

    Args:
        model: the base model's name there.
    """

    def __init__(self, settings: Settings, model: str) -> None:
        if settings.generator_url is None:
            raise SettingsError("GENERATOR_URL is not set")
        self.model, self.url = model, settings.generator_url.rstrip("/").removesuffix("/v1")
        key = settings.generator_api_key
        self._client = httpx.AsyncClient(
            headers={} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"},
            timeout=httpx.Timeout(settings.generator_timeout_s, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=None),
            **client_options(self.url),
        )
        self._paths: dict[str, str] = {}
        self._loaded: OrderedDict[str, None] = OrderedDict()  # used in the loop's thread only
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="completions", daemon=True)
        self._thread.start()

    def hand_over(self, name: str, path: str) -> None:
        """Have the server load an adapter, if it has not.

        Args:
            name: of the model there; always for the same weights.
            path: the adapter's folder, as the server sees it.

        Raises:
            UnreadableError: the server cannot be reached, or refuses the adapter.
        """
        self._paths[name] = path
        self._submit(self._load(name)).result()

    def write(self, adapter: str | None, prompt: Sequence[int], max_tokens: int) -> "Future[Completion]":
        """Have a text written. If the future is cancelled, the connection is closed, so that the server stops.

        Args:
            adapter: a name that was handed over; None for the base model.
            prompt: tokens.

        Returns:
            A future that raises UnreadableError if there is no text.
        """
        return self._submit(self._write(adapter, list(prompt), max_tokens))

    def close(self) -> None:
        """Close the connections, and end the thread."""
        self._submit(self._client.aclose()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _write(self, adapter: str | None, prompt: list[int], max_tokens: int) -> Completion:
        if adapter is not None:
            await self._load(adapter)
        body = {
            "model": adapter or self.model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "logprobs": 1,
        }
        answer = await self._post("/v1/completions", body)
        if answer.status_code == NOT_FOUND and adapter is not None:
            # The server was started anew, and has no adapters.
            self._loaded.pop(adapter, None)
            await self._load(adapter)
            answer = await self._post("/v1/completions", body)
        self._check(answer, f"to write with {body['model']!r}")
        try:
            choice = _Answer.model_validate_json(answer.content).choices[0]
        except (ValidationError, IndexError) as error:
            raise UnreadableError(
                f"{self.url} (GENERATOR_URL) answered no completion ({type(error).__name__}); it must "
                "have OpenAI's API",
                is_permanent=False,
            ) from error
        logprobs = choice.logprobs.token_logprobs if choice.logprobs else []
        probabilities = tuple(math.exp(min(0.0, value)) for value in logprobs if value is not None)
        return Completion(choice.text, probabilities, choice.finish_reason == "stop")

    async def _load(self, name: str) -> None:
        if name in self._loaded:
            self._loaded.move_to_end(name)
            return
        body = {"lora_name": name, "lora_path": self._paths[name]}
        answer = await self._post("/v1/load_lora_adapter", body)
        # vLLM refuses a name that it has: then another process of ours has loaded the same weights.
        if "already" not in answer.text:
            self._check(answer, f"to load the adapter {name!r} from {self._paths[name]}")
        self._loaded[name] = None
        while len(self._loaded) > MOST_ADAPTERS:
            oldest, _ = self._loaded.popitem(last=False)
            await self._post("/v1/unload_lora_adapter", {"lora_name": oldest})

    async def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        try:
            return await self._client.post(f"{self.url}{path}", json=body)
        except httpx.TimeoutException as error:
            raise UnreadableError(
                f"{self.url} (GENERATOR_URL) did not answer in time ({type(error).__name__}; GENERATOR_TIMEOUT_S)",
                is_permanent=False,
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UnreadableError(
                f"{self.url} (GENERATOR_URL) cannot be reached ({type(error).__name__}: {error})",
                is_permanent=False,
            ) from error

    def _check(self, answer: httpx.Response, what: str) -> None:
        """Raise UnreadableError if the server has refused.

        What it says may quote the prompt, so it is not in the reason, but in the log.
        """
        status = answer.status_code
        if answer.is_success:
            return
        hint = ""
        if status in REFUSED:
            hint = "; set GENERATOR_API_KEY"
        elif status == NOT_FOUND:
            hint = "; is GENERATOR_MODEL a model there, and may adapters be loaded (--enable-lora)?"
        elif status == BUSY or status >= FIRST_FAULT:
            hint = "; it is asked again later"
        log.warning("%s answered %d when asked %s: %s", self.url, status, what, answer.text[:500])
        raise UnreadableError(
            f"{self.url} (GENERATOR_URL) answered {status} when asked {what}{hint}", is_permanent=False
        )
