"""gunicorn with our worker and a small app, over real sockets."""

import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.half_open import KINDS, half_open
from tests.servers import free_port

pytestmark = pytest.mark.slow

THREADS = 4
MEGABYTE = 2**20
APP = """
import os
import time

from flask import Flask, request
from gunicorn.app.base import BaseApplication

from lorabel.inference.disconnect import is_disconnected

app = Flask("app")
app.config["MAX_CONTENT_LENGTH"] = 2**20
gone = []

@app.get("/health")
def health():
    return {"gone": len(gone)}

@app.post("/webhook")
def webhook():
    return {"bytes": len(request.get_data())}

@app.post("/unread")
def unread():
    return {}

@app.get("/large")
def large():
    return "x" * 30_000_000

@app.get("/slow")
def slow():
    for _ in range(20):
        time.sleep(0.05)
        if is_disconnected(request.environ["gunicorn.socket"]):
            gone.append(1)
            return {}
    return {"answered": True}

@app.get("/broken")
def broken():
    raise ValueError

class Server(BaseApplication):
    def load_config(self):
        for key, value in {
            "bind": "127.0.0.1:PORT", "workers": int(os.environ.get("PROCESSES", "1")), "threads": 4,
            "keepalive": 5, "graceful_timeout": 5,
            "worker_class": "lorabel.http_server.worker.EventWorker", "control_socket_disable": True,
            "certfile": os.environ.get("CERTIFICATE"),
        }.items():
            self.cfg.set(key, value)

    def load(self):
        return app

Server().run()
"""


@contextmanager
def server(tls: ssl.SSLContext | None = None, **variables: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A running server; yields its port and its first process.

    Args:
        tls: with which its clients connect, if CERTIFICATE is among the variables.
    """
    port = free_port()
    environment = {**os.environ, "MAX_REQUEST_MB": "1", "REQUEST_TIMEOUT_S": "30", **variables}
    process = subprocess.Popen([sys.executable, "-c", APP.replace("PORT", str(port))], env=environment)
    try:
        wait_for(port, tls)
        yield port, process
    finally:
        process.terminate()
        process.wait(timeout=20)
    assert process.returncode == 0


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server whose limits nobody reaches."""
    with server() as (port, _):
        yield port


@pytest.fixture(scope="module")
def impatient_port() -> Iterator[int]:
    with server(REQUEST_TIMEOUT_S="0.5") as (port, _):
        yield port


def wait_for(port: int, tls: ssl.SSLContext | None) -> None:
    with http(port, tls) as client:
        for _ in range(300):
            try:
                client.get("/health")
                return
            except httpx.TransportError:
                time.sleep(0.05)
    pytest.fail("the server does not answer")


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def http(port: int, tls: ssl.SSLContext | None = None) -> httpx.Client:
    """A client, which speaks TLS if it has a context for that."""
    scheme = "http" if tls is None else "https"
    return httpx.Client(base_url=f"{scheme}://127.0.0.1:{port}", trust_env=False, timeout=20, verify=tls or True)


def received(client: socket.socket) -> bytes:
    """All that the server sends until it closes the connection, also if it does so by a reset."""
    content = b""
    with suppress(ConnectionResetError):
        while data := client.recv(65536):
            content += data
    return content


@pytest.mark.parametrize("kind", KINDS)
def test_connections_hold_no_thread(port: int, kind: str) -> None:
    with half_open(port, KINDS[kind], 2 * THREADS), http(port) as client:
        assert client.get("/health").status_code == 200
        assert client.post("/webhook", content=b"four").json() == {"bytes": 4}


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_that_does_not_arrive_in_time_is_ended(impatient_port: int, kind: str) -> None:
    with half_open(impatient_port, KINDS[kind], 1) as (client,):
        assert received(client).startswith(b"" if kind == "silence" else b"HTTP/1.1 408 ")


@pytest.mark.slow
def test_a_slow_body_has_a_second_more_for_each_64_kb(impatient_port: int) -> None:
    """Half a megabyte in about 1.6 s, with a limit of 0.5 s."""
    with http(impatient_port) as client:

        def pieces() -> Iterator[bytes]:
            for _ in range(16):
                time.sleep(0.1)
                yield b"x" * 32768

        assert client.post("/webhook", content=pieces()).json() == {"bytes": 16 * 32768}


def test_a_client_that_does_not_read_holds_no_thread(port: int) -> None:
    """The answers are larger than what the kernel keeps, and than what the server keeps of all answers, where the
    youngest stays: all of theirs are older than the one that is read, and the oldest may be ended at once."""
    with ExitStack() as stack, http(port) as client:
        for _ in range(2 * THREADS):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            silent.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.get("/health").status_code == 200
        assert len(client.get("/large").content) == 30_000_000


def test_a_request_can_come_in_any_pieces(port: int) -> None:
    request = b"POST /webhook HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    request += b"4;name=x\r\nfour\r\n10\r\n0123456789abcdef\r\n0\r\nTrailer: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(len(request)):
            client.sendall(request[number : number + 1])
        client.sendall(b"POST /webhook HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc")
        answers = received(client)
    assert answers.count(b"200 OK") == 2
    assert b'{"bytes":20}' in answers
    assert answers.endswith(b'{"bytes":3}\n')


def test_requests_that_come_together_are_answered_in_order(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        bodies = [b"x" * length for length in (1, 22, 333)]
        head = b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
        client.sendall(b"".join(head % (len(body), body) for body in bodies))
        client.sendall(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
        answers = received(client)
    places = [answers.index(text) for text in (b'{"bytes":1}', b'{"bytes":22}', b'{"bytes":333}', b'"gone"')]
    assert places == sorted(places)


def test_a_client_that_expects_it_is_told_to_continue(port: int) -> None:
    head = b"POST /webhook HTTP/1.1\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head % 4)
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"four")
        assert received(client).startswith(b"HTTP/1.1 200 OK")
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head % (2 * MEGABYTE))
        assert received(client).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_that_is_too_large_is_refused(port: int, is_chunked: bool) -> None:
    body = b"x" * (3 * MEGABYTE)
    with http(port) as client:
        answer = client.post("/webhook", content=iter([body]) if is_chunked else body)
        assert answer.status_code == 413
        assert answer.headers["Connection"] == "close"
        assert client.post("/webhook", content=body[:MEGABYTE]).json() == {"bytes": MEGABYTE}


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 9000, 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: yyyyyyyyyyyyyyy\r\n" * 5000, 431),
        (b"GET /broken HTTP/1.1\r\nConnection: close\r\n\r\n", 500),
    ],
)
def test_what_is_no_http_is_refused(port: int, request_: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(request_)
        assert received(client).startswith(b"HTTP/1.1 %d " % status)


def test_a_body_that_the_app_does_not_read_does_not_disturb_the_next_request(port: int) -> None:
    with http(port) as client:
        for _ in range(3):
            assert client.post("/unread", content=b"GET /x HTTP/1.1\r\n\r\n" * 10_000).json() == {}


@pytest.mark.slow
def test_the_app_learns_that_the_client_has_gone() -> None:
    with server() as (port, _), http(port) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.get("/slow", timeout=0.2)
        time.sleep(0.3)
        assert client.get("/health").json() == {"gone": 1}


@pytest.mark.slow
def test_a_new_connection_closes_the_one_that_has_waited_longest() -> None:
    """A connection waits from the moment at which the server reads its request's begin: each client lets the next
    one come only after that."""
    head = b"POST /webhook HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    with server(MAX_CONNECTIONS="20") as (port, _), ExitStack() as stack:
        clients = []
        for _ in range(60):
            clients.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)))
            clients[-1].sendall(head)
            assert clients[-1].recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert all(received(each) == b"" for each in clients[:40])
        clients[-1].sendall(b"four")
        assert clients[-1].recv(1000).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.slow
def test_bodies_that_arrive_have_limited_memory() -> None:
    """The limit is 8 times MAX_REQUEST_MB. The oldest are refused; a later request is answered."""
    head = b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % MEGABYTE
    with server() as (port, _):
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(16)]
        for client in clients:
            client.sendall(head + b"x" * (MEGABYTE - 1))
        for client in clients[:7]:
            assert received(client).startswith(b"HTTP/1.1 503 ")
        clients[-1].sendall(b"x")
        assert clients[-1].recv(1000).startswith(b"HTTP/1.1 200 OK")
        for client in clients:
            client.close()


@pytest.mark.slow
def test_a_server_that_runs_out_of_files_closes_old_connections() -> None:
    """The hard limit leaves 64 files to the process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with server() as (port, process):
        resource.prlimit(workers_of(process)[0], resource.RLIMIT_NOFILE, (64, hard))
        with half_open(port, KINDS["half a header"], 100), http(port) as client:
            assert client.get("/health").status_code == 200


@pytest.mark.slow
def test_a_server_that_stops_answers_what_has_begun() -> None:
    with server() as (port, process), ThreadPoolExecutor(1) as threads, http(port) as client:
        with half_open(port, KINDS["half a body"], 1) as (half,), socket.create_connection(("127.0.0.1", port)):
            answer = threads.submit(client.get, "/slow")
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            half.sendall(b" " * (1000 - len(b'{"action": ')))
            assert half.recv(1000).startswith(b"HTTP/1.1 200 OK")
            assert answer.result().json() == {"answered": True}
            assert answer.result().headers["Connection"] == "close"
        process.wait(timeout=10)


@pytest.mark.slow
def test_a_process_that_is_killed_is_replaced_and_the_other_answers_meanwhile() -> None:
    with server(PROCESSES="2") as (port, process):
        while len(workers_of(process)) < 2:
            time.sleep(0.05)
        killed, other = workers_of(process)
        os.kill(killed, signal.SIGKILL)
        for _ in range(100):
            with http(port) as client:
                assert client.post("/webhook", content=b"four").json() == {"bytes": 4}
            if len(workers_of(process)) == 2 and killed not in workers_of(process):
                break
            time.sleep(0.05)
        assert other in workers_of(process)
        assert len(workers_of(process)) == 2
