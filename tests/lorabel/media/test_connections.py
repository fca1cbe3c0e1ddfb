"""Real HTTP on localhost."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpcore
import pytest

from lorabel.media.connections import MOST_IDLE, Connections
from tests.serving import serving


class CountingBackend(httpcore.SyncBackend):
    """Counts the connections that are opened."""

    def __init__(self) -> None:
        self.opened = 0

    def connect_tcp(self, *arguments: Any, **options: Any) -> httpcore.NetworkStream:
        self.opened += 1
        return super().connect_tcp(*arguments, **options)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answered = 0

    def do_GET(self) -> None:
        self.answered += 1
        if self.path == "/broken" or (self.path == "/race" and self.answered > 1):
            self.server.dropped += 1  # type: ignore[attr-defined]
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", "5")
        if self.path == "/last":
            self.close_connection = True  # without saying so
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        """Requests are not logged."""


@contextmanager
def site() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.dropped = 0  # type: ignore[attr-defined]
    with serving(server):
        yield server


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with site() as server:
        yield server


@pytest.fixture
def url(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def backend() -> CountingBackend:
    return CountingBackend()


@pytest.fixture
def connections(backend: CountingBackend) -> Iterator[Connections]:
    made = Connections(backend)
    yield made
    made.close()


def read(connections: Connections, url: str) -> bytes:
    with connections.get(url, {"Host": "x"}, 5.0) as answer:
        return b"".join(answer.iter_stream())


def test_a_connection_is_used_again(connections: Connections, backend: CountingBackend, url: str) -> None:
    assert [read(connections, f"{url}/{number}") for number in range(3)] == [b"hello"] * 3
    assert backend.opened == 1


def test_a_connection_is_kept_for_its_own_origin(
    connections: Connections, backend: CountingBackend, url: str
) -> None:
    with site() as server:
        other = f"http://127.0.0.1:{server.server_port}"
        assert [read(connections, each) for each in (url, other, url, other)] == [b"hello"] * 4
    assert backend.opened == 2


def test_a_connection_that_the_server_has_closed_is_not_used_again(
    connections: Connections, backend: CountingBackend, url: str
) -> None:
    assert read(connections, f"{url}/last") == b"hello"
    (kept,) = connections._idle
    while not kept.get_extra_info("is_readable"):
        """The server's end of the connection arrives a moment later."""
    assert read(connections, url) == b"hello"
    assert backend.opened == 2


def test_a_request_is_repeated_if_the_server_closes_the_kept_connection_at_this_moment(
    connections: Connections, backend: CountingBackend, url: str, server: Any
) -> None:
    assert [read(connections, f"{url}/race") for _ in range(3)] == [b"hello"] * 3
    assert (backend.opened, server.dropped) == (3, 2)
    assert len(connections._idle) == 1


def test_a_request_that_a_new_connection_does_not_answer_is_not_repeated(
    connections: Connections, url: str, server: Any
) -> None:
    for _ in range(2):
        with pytest.raises(httpcore.RemoteProtocolError):
            read(connections, f"{url}/broken")
    assert server.dropped == 2
    read(connections, url)
    with pytest.raises(httpcore.RemoteProtocolError):
        read(connections, f"{url}/broken")
    assert server.dropped == 4, "on the kept connection, and on a new one"
    assert len(connections._idle) == 0


def test_a_connection_whose_answer_was_not_read_is_closed(
    connections: Connections, backend: CountingBackend, url: str
) -> None:
    with connections.get(url, {"Host": "x"}, 5.0) as answer:
        assert answer.status == 200
    with pytest.raises(ValueError, match="enough"), connections.get(url, {"Host": "x"}, 5.0):
        raise ValueError("enough")
    assert read(connections, url) == b"hello"
    assert backend.opened == 3


def test_requests_at_the_same_time_have_a_connection_each_and_some_are_kept(
    connections: Connections, backend: CountingBackend, url: str
) -> None:
    barrier = threading.Barrier(MOST_IDLE + 5)

    def download() -> None:
        with connections.get(url, {"Host": "x"}, 5.0) as answer:
            barrier.wait(20)
            assert b"".join(answer.iter_stream()) == b"hello"

    threads = [threading.Thread(target=download) for _ in range(MOST_IDLE + 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert backend.opened == MOST_IDLE + 5
    assert len(connections._idle) == MOST_IDLE


def test_other_schemes_are_refused(connections: Connections) -> None:
    with pytest.raises(httpcore.UnsupportedProtocol), connections.get("ftp://host/file", {}, 5.0):
        pass


@pytest.mark.parametrize(
    ("path", "value"),
    [("/a b", "x"), ("/\r\nX: y", "x"), ("/\u00fc", "x"), ("/", "x\r\nX: y"), ("/", "x\n"), ("/", "\u0142")],
)
def test_nothing_in_a_request_ends_its_line(connections: Connections, url: str, path: str, value: str) -> None:
    """urlsplit drops line ends from addresses by itself."""
    with pytest.raises(httpcore.LocalProtocolError), connections.get(url + path, {"Authorization": value}, 5.0):
        pass
