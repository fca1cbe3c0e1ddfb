"""gunicorn with our worker and a certificate, over real TLS."""

import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from gunicorn.config import Config

from lorabel.errors import SettingsError
from lorabel.http_server.connection import Connection, State
from lorabel.http_server.heads import Heads
from lorabel.network import server_tls
from tests.certificates import Authority, make_authority
from tests.lorabel.http_server.test_worker import MEGABYTE, THREADS, http, received, server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.certificate))


@pytest.fixture(scope="module")
def port(authority: Authority, trusting: ssl.SSLContext) -> Iterator[int]:
    with server(trusting, CERTIFICATE=str(authority.certify())) as (port, _):
        yield port


def connect(port: int, tls: ssl.SSLContext) -> ssl.SSLSocket:
    return tls.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=20), server_hostname="127.0.0.1")


def test_requests_and_answers_of_all_sizes_arrive_whole(port: int, trusting: ssl.SSLContext) -> None:
    with http(port, trusting) as client:
        for size in (4, 16_384, 16_385, 70_000, MEGABYTE):
            assert client.post("/webhook", content=b"x" * size).json() == {"bytes": size}
        assert client.get("/large").content == b"x" * 30_000_000
        assert client.post("/webhook", content=b"x" * (3 * MEGABYTE)).status_code == 413


def test_a_request_may_come_in_any_pieces_and_the_next_with_it(port: int, trusting: ssl.SSLContext) -> None:
    with connect(port, trusting) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nfour":
            client.sendall(bytes([byte]))
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + b"GET /health HTTP/1.0\r\n\r\n")
        assert received(client).count(b"200 OK") == 4


def test_each_part_of_an_answer_that_is_taken_gives_the_client_more_time(
    authority: Authority, trusting: ssl.SSLContext
) -> None:
    """A large answer to a client that reads slowly is not cut off after the time for one part."""
    ours, theirs = socket.socketpair()
    certificate = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.load_cert_chain(authority.certify())
    connection = Connection(ours, "client", "server", Heads(Config()), 5.0, MEGABYTE, 30.0, certificate)
    with ThreadPoolExecutor(1) as pool:
        shaking = pool.submit(trusting.wrap_socket, theirs, server_hostname="127.0.0.1")
        while not shaking.done():
            connection.receive()
        answer = bytes(range(256)) * 16_384
        with shaking.result() as client:
            connection.enter(State.SENDING)
            expires_at, received_bytes = connection.expires_at, b""
            connection.sendall(answer)
            assert connection.send()
            assert 0 < len(connection.unsent) < len(answer)
            assert connection.expires_at > expires_at
            while len(received_bytes) < len(answer):
                received_bytes += client.recv(16_384)
                assert connection.send()
            assert received_bytes == answer and not connection.unsent
    connection.close()


def test_an_answer_ends_as_tls_ends(port: int, trusting: ssl.SSLContext) -> None:
    """Without that, a client cannot know that nobody cut the answer short."""
    raw = socket.create_connection(("127.0.0.1", port), timeout=20)
    with trusting.wrap_socket(raw, server_hostname="127.0.0.1", suppress_ragged_eofs=False) as client:
        client.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert received(client).startswith(b"HTTP/1.0 200 OK")


def test_clients_in_their_handshake_and_those_that_do_not_read_hold_no_thread(
    port: int, trusting: ssl.SSLContext
) -> None:
    with ExitStack() as stack:
        for _ in range(2 * THREADS):
            stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(b"\x16\x03\x01")
            silent = stack.enter_context(connect(port, trusting))
            silent.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        with http(port, trusting) as client:
            assert client.post("/webhook", content=b"four").json() == {"bytes": 4}


def test_a_handshake_that_is_not_ended_in_time_is_ended(authority: Authority, trusting: ssl.SSLContext) -> None:
    with (
        server(trusting, CERTIFICATE=str(authority.certify()), REQUEST_TIMEOUT_S="0.5") as (port, _),
        socket.create_connection(("127.0.0.1", port), timeout=20) as client,
    ):
        client.sendall(b"\x16\x03\x01")
        assert received(client) == b""


def test_the_app_notices_that_a_client_has_gone(port: int, trusting: ssl.SSLContext) -> None:
    """With TLS's own end before that of the connection, and without it."""
    with http(port, trusting) as client:
        before = client.get("/health").json()["gone"]
        for has_end in (True, False):
            gone = connect(port, trusting)
            gone.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.2)
            if has_end:
                gone.settimeout(0)
                with pytest.raises(ssl.SSLWantReadError):
                    gone.unwrap()
            gone.close()
        assert client.get("/slow").json() == {"answered": True}
        assert client.get("/health").json()["gone"] == before + 2


def test_plain_http_is_told_to_speak_tls(port: int) -> None:
    with http(port) as client:
        answer = client.post("/webhook", content=b"x" * 100_000)
    assert (answer.status_code, answer.text) == (400, "This port speaks TLS: write https://, not http://\n")


def test_noise_and_clients_that_do_not_trust_the_certificate_end_only_their_own_connection(
    port: int, trusting: ssl.SSLContext
) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"\x00" * 100)
        received(client)
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"), http(port) as client:
        client.base_url = httpx.URL(f"https://127.0.0.1:{port}")
        client.get("/health")
    with http(port, trusting) as client:
        assert client.get("/health").status_code == 200


def test_a_certificate_that_cannot_be_used_ends_the_start(tmp_path: Path) -> None:

    empty = tmp_path / "empty.pem"
    empty.touch()
    with pytest.raises(SettingsError, match="expected a certificate in PEM format and its key"):
        server_tls(empty, None)
    with pytest.raises(SettingsError, match=r"gone\.pem .*No such file"):
        server_tls(tmp_path / "gone.pem", None)
