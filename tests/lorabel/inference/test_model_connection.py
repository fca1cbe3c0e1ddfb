"""A connection to the model server, against a server that sends the bytes of the test."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import RemoteDisconnected
from pathlib import Path

import httpcore
import pytest

from lorabel.errors import ModelServerBusyError, ModelServerError
from lorabel.inference.model_client import ModelClient
from lorabel.inference.model_connection import ModelConnection, Request
from lorabel.settings import Settings
from tests.certificates import make_authority, server_context

BODY = b'{"rows":[]}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
MODELS = b'{"device":"cpu","precision":"float32","max_batch":1,"families":[],"adapters":[],"adapter_bytes":0}'


class ScriptedServer:
    """Answers each connection with its list of parts, each after one request or after a pause. `received` has what
    the clients have sent."""

    def __init__(
        self, connections: Sequence[Sequence[bytes]], pause_s: float = 0.0, tls: ssl.SSLContext | None = None
    ) -> None:
        self._connections, self._pause_s, self._tls = connections, pause_s, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.received: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            for answers in self._connections:
                client, _ = self._listener.accept()
                with client, self._tls.wrap_socket(client, server_side=True) if self._tls else client as stream:
                    for answer in answers:
                        self.received.append(stream.recv(2**20))
                        self._send(stream, answer)

    def _send(self, stream: socket.socket, answer: bytes) -> None:
        for part in answer.split(b"|"):
            stream.sendall(part)
            time.sleep(self._pause_s)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@contextmanager
def scripted(
    *connections: Sequence[bytes], pause_s: float = 0.0, tls: ssl.SSLContext | None = None
) -> Iterator[ScriptedServer]:
    server = ScriptedServer(connections, pause_s, tls)
    try:
        yield server
    finally:
        server.close()


def request(timeout_s: float = 5.0) -> Request:
    return Request("POST", "/v1/predict", {"Authorization": "Basic eA=="}, BODY, time.monotonic() + timeout_s)


def test_a_request_has_its_host_its_length_and_the_given_headers_and_the_connection_is_kept() -> None:
    with scripted([ANSWER, ANSWER]) as server:
        connection = ModelConnection(False, "127.0.0.1", server.port)
        for _ in range(2):
            reply = connection.ask(request())
            assert (reply.status, reply.content, connection.is_lasting) == (200, b"{}", True)
        connection.close()
    head = f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAuthorization: Basic eA==\r\n"
    assert server.received == [head.encode() + b"Content-Length: 11\r\n\r\n" + BODY] * 2


@pytest.mark.parametrize(
    ("is_tls", "host", "address", "header"),
    [
        (False, "::1", ("::1", 80), "[::1]"),
        (True, "::1", ("::1", 443), "[::1]"),
        (False, "models.example", ("models.example", 80), "models.example"),
        (False, "müller.example", ("müller.example", 80), "xn--mller-kva.example"),
    ],
)
def test_a_host_without_a_port_is_asked_at_the_usual_one(
    is_tls: bool, host: str, address: tuple[str, int], header: str
) -> None:
    connection = ModelConnection(is_tls, host, None)
    assert ((connection._connection.host, connection._connection.port), connection._host) == (address, header)


def test_an_answer_arrives_in_any_pieces() -> None:
    head = b"HTTP/1.1 503 Busy\r\nTransfer-|Encoding: chunked\r\nRetry-After: 7\r\n|\r\n"
    with scripted([head + b"1\r\n{\r\n|1\r\n}\r\n0\r\n\r\n"], pause_s=0.02) as server:
        connection = ModelConnection(False, "127.0.0.1", server.port)
        reply = connection.ask(request())
        connection.close()
    assert (reply.status, reply.content, reply.retry_after_s) == (503, b"{}", 7)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", RemoteDisconnected),
        (b"no HTTP at all\r\n\r\n", httpcore.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", httpcore.RemoteProtocolError),
    ],
)
def test_an_answer_that_is_none_or_ends_too_early_is_an_error(answer: bytes, error: type[Exception]) -> None:
    with scripted([answer]) as server:
        connection = ModelConnection(False, "127.0.0.1", server.port)
        with pytest.raises(error):
            connection.ask(request())
        assert not connection.is_lasting
        connection.close()


def test_a_caller_that_has_gone_and_the_end_of_the_time_are_noticed_in_the_midst_of_an_answer() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{"
    with scripted([half], [half], pause_s=0.5) as server:
        for is_gone, error in ((lambda: True, ConnectionAbortedError), (None, TimeoutError)):
            connection = ModelConnection(False, "127.0.0.1", server.port)
            impatient = Request("POST", "/", {}, BODY, time.monotonic() + 0.3, is_gone)
            with pytest.raises(error):
                connection.ask(impatient)
            connection.close()


def test_the_client_asks_again_where_a_kept_connection_was_closed(settings: Settings) -> None:
    models = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(MODELS) + MODELS
    with scripted([models], [models]) as server:
        client = ModelClient(settings.model_copy(update={"model_server_url": f"http://127.0.0.1:{server.port}"}))
        assert client.models().device == client.models().device == "cpu"
        client.close()
    assert len(server.received) == 2


def test_an_odd_retry_after_counts_as_a_second_and_what_is_no_answer_as_a_failure(settings: Settings) -> None:
    busy = b"HTTP/1.1 503 Busy\r\nRetry-After: tomorrow\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    with scripted([busy], [b"?"]) as server:
        client = ModelClient(settings.model_copy(update={"model_server_url": f"http://127.0.0.1:{server.port}"}))
        with pytest.raises(ModelServerBusyError) as caught:
            client.models()
        assert caught.value.retry_after_s == 1
        with pytest.raises(ModelServerError, match="cannot be reached"):
            client.models()
        client.close()


def test_https_is_spoken_with_a_server_whose_certificate_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = make_authority(tmp_path)
    tls = server_context(authority.certify())
    # The last part comes alone: the first readings find records of TLS without an answer.
    with scripted([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n|{|}"], pause_s=0.02, tls=tls) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        connection = ModelConnection(True, "127.0.0.1", server.port)
        assert connection.ask(request()).content == b"{}"
        connection.close()


@pytest.mark.parametrize(
    ("names", "options", "is_trusted", "remedy"),
    [
        ((), {}, False, "SSL_CERT_FILE can name the certificate of its authority"),
        (("models.example.com",), {"is_local": False}, True, "its certificate is for another name"),
        ((), {"is_expired": True}, True, "renew its certificate"),
        (None, {}, True, "nothing speaks TLS there: write http://"),
    ],
    ids=["unknown authority", "another name", "expired", "plain HTTP"],
)
def test_what_is_wrong_with_a_certificate_is_said_with_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, ...] | None,
    options: dict[str, bool],
    is_trusted: bool,
    remedy: str,
) -> None:
    authority = make_authority(tmp_path)
    tls = None if names is None else server_context(authority.certify(*names, **options))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    with scripted([b"HTTP/1.1 400 Bad Request\r\n\r\n"], tls=tls) as server:
        client = ModelClient(Settings(model_server_url=f"https://127.0.0.1:{server.port}"))
        with pytest.raises(ModelServerError, match=f"cannot be reached .*{remedy}"):
            client.models()
        client.close()


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"model_server_tls_certificate": "x.pem"}, "expected an https address"),
        ({"model_server_url": "models:9191"}, "begins with http:// or https://"),
        ({"tls_key": "x.key"}, "TLS_KEY is set without TLS_CERTIFICATE"),
    ],
)
def test_settings_of_tls_that_do_not_fit_together_are_refused(fields: dict[str, str], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Settings(**fields)  # type: ignore[arg-type]
