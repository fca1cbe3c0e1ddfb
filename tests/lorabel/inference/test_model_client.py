"""Against a model server over real HTTP."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from lorabel.errors import ModelServerBusyError, ModelServerError
from lorabel.inference.disconnect import is_disconnected
from lorabel.inference.messages import PredictRow, Priority
from lorabel.inference.model_client import POLL_INTERVAL_S, ModelClient
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


def test_the_request_says_whose_it_is_and_how_urgent(client: ModelClient, model_server: FakeModelServer) -> None:
    (result,) = client.predict([row("http://x/blue0.png")], 5, project=7, priority=Priority.BULK)
    assert result.output == {"probabilities": pytest.approx([0.1, 0.9])}
    assert (model_server.requests[0].project, model_server.requests[0].priority) == (7, Priority.BULK)


def test_a_full_queue_and_a_failure_are_told_apart(client: ModelClient, model_server: FakeModelServer) -> None:
    model_server.status = 503
    with pytest.raises(ModelServerBusyError) as caught:
        client.predict([row("x")], 5, project=1)
    assert caught.value.retry_after_s == 7
    model_server.status = 500
    with pytest.raises(ModelServerError, match="answered 500 to /v1/predict: no"):
        client.predict([row("x")], 5, project=1)


def test_a_server_that_is_not_there_is_named_with_its_setting(settings: Settings) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    client = ModelClient(settings.model_copy(update={"model_server_url": url}))
    with pytest.raises(ModelServerError, match=rf"{url} cannot be reached .*MODEL_SERVER_URL"):
        client.models()


def test_an_answer_that_takes_longer_than_a_look_comes_through(
    client: ModelClient, model_server: FakeModelServer
) -> None:
    model_server.wait_s = 2.5 * POLL_INTERVAL_S
    (result,) = client.predict([row("http://x/red0.png")], 5, project=1, is_gone=lambda: False)
    assert result.output is not None


def test_who_hangs_up_is_not_waited_for(client: ModelClient, model_server: FakeModelServer) -> None:
    model_server.wait_s = 3.0
    here, there = socket.socketpair()
    threading.Timer(0.3, there.close).start()
    began = time.monotonic()
    with pytest.raises(ModelServerError, match="has hung up"):
        client.predict([row("x")], 30, project=1, is_gone=lambda: is_disconnected(here))
    assert time.monotonic() - began < model_server.wait_s
    here.close()


def test_a_socket_with_something_to_read_has_not_hung_up() -> None:
    here, there = socket.socketpair()
    assert not is_disconnected(here)
    there.send(b"x")
    assert not is_disconnected(here)
    assert here.recv(1) == b"x", "looking takes nothing"
    there.close()
    assert is_disconnected(here)
    here.close()
    assert is_disconnected(here)
    assert not is_disconnected(None)


def test_texts_in_any_script_arrive_as_they_are(client: ModelClient, model_server: FakeModelServer) -> None:
    client.predict([questions.row(about_picture("http://x/1.png", ("Żółw 😀", "亀")))], 5, project=1)
    assert model_server.rows[0].input["labels"] == [["Żółw 😀"], ["亀"]]
