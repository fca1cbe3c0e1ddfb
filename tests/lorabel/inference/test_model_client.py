"""The client of the model server, and `is_disconnected`, over real sockets."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from lorabel.errors import ModelServerBusyError, ModelServerError, RequestTooLargeError
from lorabel.inference.disconnect import is_disconnected
from lorabel.inference.messages import PredictRow, Priority
from lorabel.inference.model_client import ModelClient
from lorabel.inference.model_connection import POLL_INTERVAL_S
from lorabel.settings import Settings
from tests import questions
from tests.backend.fake_model_server import FakeModelServer
from tests.questions import about_picture
from tests.servers import free_port


@pytest.fixture
def client(model_server: FakeModelServer, settings: Settings) -> Iterator[ModelClient]:
    client = ModelClient(settings.model_copy(update={"model_server_url": model_server.url}))
    yield client
    client.close()


def row(url: str) -> PredictRow:
    return questions.row(about_picture(url, ("red", "blue")))


def test_a_request_names_its_project_and_its_priority(client: ModelClient, model_server: FakeModelServer) -> None:
    (result,) = client.predict([row("http://x/blue0.png")], 5, project=7, priority=Priority.BULK)
    assert result.output == {"probabilities": pytest.approx([0.1, 0.9])}
    assert (model_server.requests[0].project, model_server.requests[0].priority) == (7, Priority.BULK)


def test_a_full_queue_and_a_failure_raise_different_errors(
    client: ModelClient, model_server: FakeModelServer
) -> None:
    model_server.status = 503
    with pytest.raises(ModelServerBusyError) as caught:
        client.predict([row("x")], 5, project=1)
    assert caught.value.retry_after_s == 7
    model_server.status = 500
    with pytest.raises(ModelServerError, match="answered 500 to /v1/predict: no"):
        client.predict([row("x")], 5, project=1)


def test_a_request_above_the_limit_is_not_sent_and_one_that_is_refused_for_its_size_says_so(
    model_server: FakeModelServer, settings: Settings
) -> None:
    client = ModelClient(settings.model_copy(update={"model_server_url": model_server.url, "max_request_mb": 1}))
    with pytest.raises(RequestTooLargeError, match=r"1 rows has 1\.1 MB, .* at most 1 MB \(MAX_REQUEST_MB\)"):
        client.predict([row("x" * (2**20 + 2**16))], 5, project=1)
    assert model_server.requests == []
    model_server.status = 413
    with pytest.raises(RequestTooLargeError, match="answered 413 to /v1/predict: no"):
        client.predict([row("x")], 5, project=1)
    client.close()


def test_an_unreachable_model_server_is_named_with_its_setting(settings: Settings) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    client = ModelClient(settings.model_copy(update={"model_server_url": url}))
    with pytest.raises(ModelServerError, match=rf"{url} cannot be reached .*MODEL_SERVER_URL"):
        client.models()


def test_an_answer_that_takes_longer_than_the_poll_interval_arrives(
    client: ModelClient, model_server: FakeModelServer
) -> None:
    model_server.wait_s = 2.5 * POLL_INTERVAL_S
    (result,) = client.predict([row("http://x/red0.png")], 5, project=1, is_gone=lambda: False)
    assert result.output is not None


def test_a_caller_that_disconnects_is_not_waited_for(client: ModelClient, model_server: FakeModelServer) -> None:
    model_server.wait_s = 3.0
    server_end, caller_end = socket.socketpair()
    threading.Timer(0.3, caller_end.close).start()
    started_at = time.monotonic()
    with pytest.raises(ModelServerError, match="the caller has disconnected"):
        client.predict([row("x")], 30, project=1, is_gone=lambda: is_disconnected(server_end))
    assert time.monotonic() - started_at < model_server.wait_s
    server_end.close()


def test_only_a_closed_socket_is_disconnected() -> None:
    server_end, client_end = socket.socketpair()
    assert not is_disconnected(server_end)
    client_end.send(b"x")
    assert not is_disconnected(server_end)
    assert server_end.recv(1) == b"x", "the check takes nothing from the socket"
    client_end.close()
    assert is_disconnected(server_end)
    server_end.close()
    assert is_disconnected(server_end)
    assert not is_disconnected(None)


def test_texts_in_any_script_arrive_unchanged(client: ModelClient, model_server: FakeModelServer) -> None:
    client.predict([questions.row(about_picture("http://x/1.png", ("Żółw 😀", "亀")))], 5, project=1)
    assert model_server.rows[0].input["labels"] == [["Żółw 😀"], ["亀"]]
