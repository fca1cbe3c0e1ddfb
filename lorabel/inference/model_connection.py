"""A connection to the model server, over which requests go one after the other.

http.client opens it, TLS included, with the authorities of `lorabel/network.py`. The answer is read by llhttp
(`lorabel/media/http_answer.py`): http.client gives the head of an answer to a parser of e-mails, which takes more
time than all else that the client does.
"""

import select
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTP_PORT, HTTPS_PORT, HTTPConnection, HTTPSConnection, RemoteDisconnected
from ssl import SSLSocket, SSLWantReadError

import httpcore

from lorabel.media.http_answer import Answer
from lorabel.network import tls_context

CONNECT_TIMEOUT_S = 5.0
POLL_INTERVAL_S = 0.2
SHORTEST_TIMEOUT_S = 0.1
# A longer body is not copied behind the head.
SHORT_BODY_BYTES = 256 * 1024


@dataclass(frozen=True)
class Request:
    """A request, and how long its answer is waited for.

    Attributes:
        target: the path.
        headers: beside Host and Content-Length.
        until: the time of `time.monotonic()` up to which the answer is waited for.
        is_gone: returns whether nobody wants the answer any more; polled while the answer is awaited.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    until: float
    is_gone: Callable[[], bool] | None = None


@dataclass(frozen=True)
class Reply:
    """An answer. `retry_after_s` is what it says of that, 1 if it says nothing."""

    status: int
    content: bytes
    retry_after_s: int


class ModelConnection:
    """Opened by the first request. Not thread-safe.

    Args:
        is_tls: whether the server is asked over https.
        port: None for the usual port.
    """

    def __init__(self, is_tls: bool, host: str, port: int | None) -> None:
        # Without a port, what comes after the last colon of an IPv6 address would be taken for one.
        usual_port = HTTPS_PORT if is_tls else HTTP_PORT
        self._connection = (
            HTTPSConnection(host, port or usual_port, timeout=CONNECT_TIMEOUT_S, context=tls_context())
            if is_tls
            else HTTPConnection(host, port or usual_port, timeout=CONNECT_TIMEOUT_S)
        )
        name = f"[{host}]" if ":" in host else host if host.isascii() else host.encode("idna").decode()
        self._host = name if port is None else f"{name}:{port}"
        self.is_lasting = False

    def ask(self, request: Request) -> Reply:
        """Send a request and read its answer. Afterwards `is_lasting` says whether the connection can be kept.

        Raises:
            OSError: the server cannot be reached, has closed the connection, is late, or `is_gone` returned True.
            httpcore.RemoteProtocolError: the answer is none.
        """
        self.is_lasting = False
        if self._connection.sock is None:
            self._connection.connect()
        self._send(request)
        answer = Answer(_AnswerStream(self._connection.sock, request), 0.0)
        content = b"".join(answer.iter_stream())
        self.is_lasting = answer.is_lasting
        retry_after = answer.header(b"retry-after") or b""
        return Reply(answer.status, content, int(retry_after) if retry_after.isdigit() else 1)

    def close(self) -> None:
        self._connection.close()

    def _send(self, request: Request) -> None:
        fields = {"Host": self._host, **request.headers, "Content-Length": str(len(request.body))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        head = f"{request.method} {request.target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
        sock = self._connection.sock
        sock.settimeout(max(SHORTEST_TIMEOUT_S, request.until - time.monotonic()))
        if len(request.body) <= SHORT_BODY_BYTES:
            sock.sendall(head + request.body)
        else:
            sock.sendall(head)
            sock.sendall(request.body)
        # What can be read is read without waiting, so that `is_gone` is asked also where TLS has more to say.
        sock.setblocking(False)


class _AnswerStream(httpcore.NetworkStream):
    """Reads from the socket while the answer is wanted."""

    def __init__(self, socket: socket.socket, request: Request) -> None:
        self._socket, self._request = socket, request
        self._has_begun = False
        self._poll = select.poll()
        self._poll.register(socket, select.POLLIN)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What has arrived, b"" at the end.

        Raises:
            OSError: see `ModelConnection.ask`; RemoteDisconnected if the server has closed without an answer.
        """
        while True:
            self._wait()
            try:
                data = self._socket.recv(max_bytes)
            except (SSLWantReadError, BlockingIOError):
                continue
            if not data and not self._has_begun:
                raise RemoteDisconnected("the server has closed the connection without an answer")
            self._has_begun = True
            return data

    def _wait(self) -> None:
        """Poll until something can be read. Abort if the time is up or the caller is gone."""
        if isinstance(self._socket, SSLSocket) and self._socket.pending():
            return
        until, is_gone = self._request.until, self._request.is_gone
        while not self._poll.poll(1000 * max(0.0, min(POLL_INTERVAL_S, until - time.monotonic()))):
            if time.monotonic() >= until:
                raise TimeoutError("the time for an answer is over")
            if is_gone is not None and is_gone():
                raise ConnectionAbortedError("the caller has disconnected")
