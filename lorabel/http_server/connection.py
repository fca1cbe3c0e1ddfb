"""A client's connection, as the event loop of `worker.py` sees it."""

import enum
import socket
import ssl
import time
from contextlib import suppress
from typing import Any

from lorabel.http_server.heads import Heads
from lorabel.http_server.request_reader import RequestReader

# A request, or an answer, has one second more for so many bytes that have gone over the line.
SLOWEST_BYTES_PER_S = 64 * 1024
# How a socket says that it has nothing yet, or takes nothing now.
LATER = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
# Time for the client to take our last answer before the connection is closed.
LINGER_S = 2.0
# Read at once of a request's begin, and of its rest. Each reading gives Python's lock away, so few are better.
BEGIN_BYTES, REST_BYTES = 64 * 1024, 1024 * 1024
# Sent at once over TLS, where nothing counts as sent before all of it is.
TLS_BYTES = 64 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
NO_BODY = b"Connection: close\r\nContent-Length: 0\r\n\r\n"
TIMEOUT_ANSWER = b"HTTP/1.1 408 Request Timeout\r\n" + NO_BODY
PLAIN_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nThis port speaks TLS: write https://, not http://\n"
)
BUSY_ANSWER = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n" + NO_BODY


class State(enum.Enum):
    """What the connection waits for."""

    IDLE = enum.auto()
    """The first byte of a request."""
    READING = enum.auto()
    """The rest of a request."""
    WORKING = enum.auto()
    """The thread that answers the request. Only this thread may touch `unsent`; the event loop waits for it."""
    SENDING = enum.auto()
    """The client, which must take the answer."""
    CLOSING = enum.auto()
    """The client, which should close its end. What it still sends is dropped."""


class Connection:
    """Also stands for the socket towards gunicorn's `Response`: what it sends is kept until `send` is called.

    Args:
        client: the client's address; `server` is ours.
        tls: None for a port that speaks plain HTTP. The handshake is a part of the first reading, so it has the
            time that a request has.

    Raises:
        OSError: with TLS, the client has gone already.
        heads: parse the heads of the requests.
        keepalive_s: how long the connection may wait for the next request.
        longest_body: in bytes.
        timeout_s: for a request to arrive, and for an answer to be taken.
    """

    def __init__(
        self,
        client_socket: socket.socket,
        client: Any,
        server: Any,
        heads: Heads,
        keepalive_s: float,
        longest_body: int,
        timeout_s: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        client_socket.setblocking(False)
        if tls is not None:
            client_socket = tls.wrap_socket(client_socket, server_side=True, do_handshake_on_connect=False)
        self.socket = client_socket
        self.is_tls = tls is not None
        self.is_plain_by_mistake = False
        self.client, self.server = client, server
        self.reader = RequestReader(heads, client, longest_body, self._send_continue)
        self.unsent = bytearray()
        self.body_nbytes = 0
        self.is_last_answer = False
        self._timeout_s, self._keepalive_s = timeout_s, keepalive_s
        self.enter(State.IDLE, timeout_s)

    def enter(self, state: State, patience_s: float | None = None) -> None:
        """Begin to wait for something else.

        Args:
            patience_s: until the connection is closed; by default as usual for the state.
        """
        usual_s = {State.IDLE: self._keepalive_s, State.CLOSING: LINGER_S}.get(state, self._timeout_s)
        self.state = state
        self.expires_at = time.monotonic() + (usual_s if patience_s is None else patience_s)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.reader.nbytes + self.body_nbytes + len(self.unsent)

    def receive(self) -> bool:
        """Read what has arrived. Returns False if the client has closed the connection.

        Sets `is_plain_by_mistake` if a client speaks plain HTTP to a port that speaks TLS.
        """
        try:
            # BEGIN_BYTES are more than a record of TLS, of which nothing may be left in the socket's own memory:
            # the event loop would not see it there.
            is_long = self.state is State.READING and not self.is_tls
            data = self.socket.recv(REST_BYTES if is_long else BEGIN_BYTES)
        except LATER:
            return True
        except OSError as error:
            self.is_plain_by_mistake = isinstance(error, ssl.SSLError) and error.reason == "HTTP_REQUEST"
            return False
        if self.state is State.IDLE and data:
            self.enter(State.READING)
        if self.state is State.READING:
            self.expires_at += len(data) / SLOWEST_BYTES_PER_S
            self.reader.feed(data)
        return bool(data)

    def send(self) -> bool:
        """Send as much of the answer as the client takes now. Returns False if the client has gone."""
        try:
            while self.unsent:
                # After "later" the same bytes come again, as OpenSSL wants it.
                sent = self.socket.send(self.unsent[:TLS_BYTES] if self.is_tls else self.unsent)
                del self.unsent[:sent]
                self.expires_at += sent / SLOWEST_BYTES_PER_S
        except LATER:
            return True  # the event loop sends the rest when the client takes more
        except OSError:
            self.unsent.clear()
            return False
        return True

    def sendall(self, data: bytes) -> None:
        self.unsent += data

    def gettimeout(self) -> float:
        """As of a socket that does not block."""
        return 0.0

    def end(self) -> None:
        """End our side: no more is sent. Raises OSError if the client has gone."""
        if self.is_plain_by_mistake:
            socket.socket.send(self.socket, PLAIN_ANSWER)
        elif isinstance(self.socket, ssl.SSLSocket):
            # Sends TLS's own end, without which an answer could have been cut short. The client's is not awaited.
            with suppress(OSError, ValueError):
                self.socket.unwrap()
        # From here on a socket of TLS reads what comes as it is. It is dropped.
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.socket.close()

    def _send_continue(self) -> None:
        """The line is empty at this moment, so that a client which waits for this gets it."""
        self.unsent += CONTINUE
        self.send()
