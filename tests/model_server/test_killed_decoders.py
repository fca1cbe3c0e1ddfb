"""A real model server under load whose decoders are killed, one after the other, and then what starts them."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import servers
from benchmarks.subjects.media_memory import variables
from lorabel.inference.messages import RowResult
from lorabel.inference.model_client import ModelClient
from lorabel.settings import Settings
from tests import questions
from tests.e2e.processes import wait_until
from tests.model_server.slow_pictures import slow_pictures
from tests.questions import about_picture

pytestmark = [pytest.mark.slow, pytest.mark.long]

DECODERS = 2
CLIENTS = 8
KILLS = 4
TIMEOUT_S = 60.0
PAUSE_S = 0.5


@pytest.fixture(scope="module")
def pictures() -> Iterator[str]:
    with slow_pictures() as address:
        yield address


@pytest.fixture(scope="module")
def server(pictures: str) -> Iterator[servers.ModelServer]:
    own = {"DECODERS": str(DECODERS), "MEDIA_FRESH_S": "0", "FEATURES_MEMORY_MB": "0", "PIXELS_MEMORY_MB": "0"}
    with servers.model_server({**variables(pictures), **own}, cores=4) as server:
        yield server


def command(pid: int) -> str:
    """Empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except FileNotFoundError:
        return ""


def started_by(pid: int) -> list[int]:
    """By any of its threads."""
    if not pid:
        return []
    children: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
            children += map(int, file.read_text().split())
    return children


def template_of(server: servers.ModelServer) -> int:
    """The process that the decoders are forked from; 0 while there is none."""
    templates = [pid for pid in started_by(server.pid) if "forkserver" in command(pid)]
    return templates[0] if templates else 0


def metric(server: servers.ModelServer, name: str) -> float:
    text = httpx.get(f"{server.url}/metrics", trust_env=False).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    )


def wait_for_restarts(server: servers.ModelServer, count: float) -> None:
    wait_until(
        lambda: metric(server, "lorabel_decoder_restarts_total") >= count, TIMEOUT_S, "another decoder is started"
    )


def ask(client: ModelClient, address: str) -> list[RowResult]:
    rows = [questions.row(about_picture(f"{address}/20/{number}.png", ("red", "blue"))) for number in range(4)]
    return client.predict(rows, TIMEOUT_S, 1)


def probabilities(results: Sequence[RowResult]) -> list[list[float]]:
    return [result.output["probabilities"] for result in results if result.output is not None]


@pytest.fixture
def client(server: servers.ModelServer) -> Iterator[ModelClient]:
    client = ModelClient(Settings(model_server_url=server.url))
    yield client
    client.close()


def test_killed_decoders_lose_no_row(server: servers.ModelServer, client: ModelClient, pictures: str) -> None:
    expected = probabilities(ask(client, pictures))
    is_over = Event()

    def ask_again() -> list[RowResult]:
        results = []
        while not is_over.is_set():
            results += ask(client, pictures)
        return results

    template = template_of(server)
    with ThreadPoolExecutor(CLIENTS) as threads, ExitStack() as stack:
        stack.callback(is_over.set)
        asked = [threads.submit(ask_again) for _ in range(CLIENTS)]
        for _ in range(KILLS):
            victim = started_by(template)[0]
            restarts = metric(server, "lorabel_decoder_restarts_total") + 1
            os.kill(victim, signal.SIGKILL)
            wait_for_restarts(server, restarts)
            time.sleep(PAUSE_S)
        running = started_by(template)
        assert len(running) == DECODERS
        for victim in (template, *running):
            os.kill(victim, signal.SIGKILL)
        # It imports torch, and the clients leave it little of two cores.
        wait_until(lambda: len(started_by(template_of(server))) == DECODERS, 3 * TIMEOUT_S, "all is started again")
        time.sleep(PAUSE_S)
        is_over.set()
        results = [result for future in asked for result in future.result()]
    assert [result.error for result in results if result.error is not None] == []
    # A prediction may differ in its last bits from that of the same task in another batch.
    np.testing.assert_allclose(probabilities(results), expected * (len(results) // len(expected)), atol=1e-5)
    assert metric(server, "lorabel_decoder_requests_total") > KILLS
