"""gunicorn's worker for our servers: an event loop owns all connections, threads only answer complete requests.

The loop reads requests, and sends what a client does not take at once. A request comes to a thread with its whole
body, and the thread leaves its answer to the loop, so a client that is silent, slow, or does not read holds no
thread. Each has a time limit instead (REQUEST_TIMEOUT_S). gunicorn does the rest: processes, signals, logs, HTTP's
grammar, the WSGI environment. `gunicorn.socket` in it is the connection's socket
(`lorabel/inference/disconnect.py`).

With `certfile` in gunicorn's configuration, the port speaks TLS: the loop does the handshakes, and reads and
writes without waiting as it does otherwise.

Not supported: HTTP/2, streams (an answer is sent when it is complete), gunicorn's `max_requests` and hooks of
requests.
"""

import errno
import os
import queue
import resource
import selectors
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Any

from gunicorn.http import wsgi
from gunicorn.workers.base import Worker

from lorabel.http_server.connection import BUSY_ANSWER, TIMEOUT_ANSWER, Connection, State
from lorabel.http_server.heads import Heads
from lorabel.network import server_tls
from lorabel.settings import Settings

MEGABYTE = 2**20
# Requests of MAX_REQUEST_MB that may be in memory while they arrive, wait for a thread, or are answered.
LARGE_REQUESTS = 8
# Files of the process beside connections: the database, the model server, Label Studio, media.
OTHER_FILES = 512
ACCEPTED_AT_ONCE = 16
SWEEP_S = 0.5
# While the server stops, a client that keeps its connection may send the next request for so long.
STOP_IDLE_S = 0.5
OUT_OF_FILES_PAUSE_S = 0.05
OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)


class EventWorker(Worker):  # type: ignore[misc]
    """One process of the server. All methods but `_answer` run in the main thread."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        settings = Settings()
        self._timeout_s = settings.request_timeout_s
        self._longest_body = settings.max_request_mb * MEGABYTE
        self._most_bytes = LARGE_REQUESTS * self._longest_body
        self._most_connections = settings.max_connections
        self._bytes = 0
        # Every connection with the bytes of it that `_bytes` counts.
        self._connections: dict[Connection, int] = {}
        # Those that no thread works on; the one that has waited longest is first.
        self._waiting: dict[Connection, None] = {}
        self._answered: queue.SimpleQueue[tuple[Connection, bool]] = queue.SimpleQueue()
        self._late = self._dropped = 0
        self._is_accepting = False

    def init_process(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._heads = Heads(self.cfg)
        self._tls = server_tls(self.cfg.certfile, self.cfg.keyfile) if self.cfg.certfile else None
        self._threads = ThreadPoolExecutor(self.cfg.threads, thread_name_prefix="request")
        self._most_connections = min(self._most_connections, _raise_file_limit(self._most_connections))
        super().init_process()

    def run(self) -> None:
        """Serve until a signal, or the end of gunicorn's master, stops the process."""
        self._selector.register(self.PIPE[0], selectors.EVENT_READ, self._take_answered)
        sweep_at = 0.0
        while self.alive and self.ppid == os.getppid():
            self._accept_if(self._can_accept)
            self._turn(SWEEP_S)
            if time.monotonic() > sweep_at:
                self._sweep()
                sweep_at = time.monotonic() + SWEEP_S
        self._stop()

    def _stop(self) -> None:
        """Answer the requests that have begun, at most for `graceful_timeout`."""
        self.alive = False
        self._accept_if(False)
        for listener in self.sockets:
            listener.close()
        until = time.monotonic() + self.cfg.graceful_timeout
        for connection in self._waiting:
            if connection.state is State.IDLE:
                connection.enter(State.IDLE, STOP_IDLE_S)
        while self._connections and time.monotonic() < until:
            self._turn(SWEEP_S / 5)
            self._sweep()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _turn(self, timeout_s: float) -> None:
        """Wait for events, and handle them."""
        for key, _ in self._selector.select(timeout_s):
            if isinstance(key.data, Connection):
                # An earlier event of this turn may have closed it.
                if key.data in self._waiting:
                    self._handle(key.data)
            else:
                key.data(key.fileobj)

    def _accept_if(self, can_accept: bool) -> None:
        if can_accept == self._is_accepting:
            return
        self._is_accepting = can_accept
        for listener in self.sockets:
            if can_accept:
                listener.setblocking(False)
                self._selector.register(listener, selectors.EVENT_READ, self._accept)
            else:
                self._selector.unregister(listener)

    @property
    def _can_accept(self) -> bool:
        """Whether there is room, or a connection that can be closed for a new one."""
        return len(self._connections) < self._most_connections or bool(self._waiting)

    def _accept(self, listener: Any) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            if not self._can_accept:
                return
            try:
                client_socket, client = listener.accept()
            except OSError as error:
                if error.errno in OUT_OF_FILES and not self._drop_oldest():
                    time.sleep(OUT_OF_FILES_PAUSE_S)
                return
            if len(self._connections) >= self._most_connections:
                self._drop_oldest()
            server = listener.getsockname()
            try:
                connection = Connection(
                    client_socket,
                    client,
                    server,
                    self._heads,
                    float(self.cfg.keepalive),
                    self._longest_body,
                    self._timeout_s,
                    self._tls,
                )
            except OSError:
                client_socket.close()
                continue
            self._connections[connection] = 0
            self._wait(connection)
            # The request is often there already.
            self._handle(connection)

    def _handle(self, connection: Connection) -> None:
        """Go on with a connection that can be read, or written if it waits for that."""
        if connection.state is State.SENDING:
            if not connection.send():
                self._close(connection)
            elif not connection.unsent:
                self._go_on(connection)
            return
        was_idle = connection.state is State.IDLE
        is_open = connection.receive()
        if connection.is_plain_by_mistake:
            self._part(connection)
            return
        if connection.state is State.READING:
            if was_idle:
                # The connection is as young as its request.
                self._wait(connection)
            self._submit_if_complete(connection)
        if connection in self._waiting:
            if is_open:
                self._count(connection)
                self._limit_bytes(connection)
            else:
                self._close(connection)

    def _submit_if_complete(self, connection: Connection) -> None:
        """Give the next request to a thread if all of it has arrived."""
        try:
            request = connection.reader.next_request()
        except Exception as error:  # noqa: BLE001 - gunicorn's exceptions share no class; a thread answers with 400
            request = error
        if request is None:
            return
        connection.body_nbytes = 0 if isinstance(request, Exception) else len(request.body.getbuffer())
        self._selector.unregister(connection.socket)
        del self._waiting[connection]
        connection.enter(State.WORKING)
        self._count(connection)
        self._threads.submit(self._answer, connection, request)

    def _answer(self, connection: Connection, request: Any) -> None:
        """Call the app, and send as much of the answer as the client takes at once. Runs in a thread."""
        is_last = True
        try:
            is_last = self._call(connection, request)
        except Exception as error:  # noqa: BLE001 - gunicorn logs it, and answers with 500, or 400 for bad HTTP
            connection.unsent.clear()
            request = None if isinstance(request, Exception) else request
            self.handle_error(request, connection, connection.client, error)
            connection.send()
        finally:
            self._answered.put((connection, is_last))
            # If the pipe is full, it is full of the same news.
            with suppress(BlockingIOError):
                os.write(self.PIPE[1], b".")

    def _call(self, connection: Connection, request: Any) -> bool:
        """Call the app. Returns whether the connection is to be closed after the answer."""
        if isinstance(request, Exception):
            raise request
        began_at = datetime.now()
        response, environ = wsgi.create(request, connection, connection.client, connection.server, self.cfg)
        environ["gunicorn.socket"] = connection.socket
        environ["wsgi.multithread"] = True
        parts = self.wsgi(environ, response.start_response)
        try:
            if not self.alive:
                response.force_close()
            for part in parts:
                response.write(part)
            response.close()
            is_gone = not connection.send()
        finally:
            self.log.access(response, request, environ, datetime.now() - began_at)
            # After the answer is sent: the app may have work for this moment.
            if hasattr(parts, "close"):
                parts.close()
        return is_gone or response.should_close()

    def _take_answered(self, pipe: int) -> None:
        """Take back the connections whose requests are answered. Also called after a signal."""
        os.read(pipe, 4096)
        while not self._answered.empty():
            connection, is_last = self._answered.get()
            connection.is_last_answer = is_last
            connection.body_nbytes = 0
            if connection.unsent:
                connection.enter(State.SENDING)
                self._wait(connection)
                self._count(connection)
                self._limit_bytes(connection)
            else:
                self._go_on(connection)

    def _go_on(self, connection: Connection) -> None:
        """The answer is sent: close the connection, or wait for the next request."""
        if connection.is_last_answer:
            self._part(connection)
            return
        # The next request may have come with the last.
        connection.enter(State.READING if connection.reader.nbytes else State.IDLE)
        if connection.state is State.IDLE and not self.alive:
            connection.enter(State.IDLE, STOP_IDLE_S)
        self._wait(connection)
        self._count(connection)
        if connection.state is State.READING:
            self._submit_if_complete(connection)

    def _part(self, connection: Connection, answer: bytes = b"") -> None:
        """End our side, and let the client take what was sent: if we closed at once, the kernel would drop our
        answer as soon as the client sends more (RFC 9112, 9.6).

        Args:
            answer: short; sent before the end, if the client takes it.
        """
        connection.reader.clear()
        connection.sendall(answer)
        connection.send()
        connection.unsent.clear()
        connection.enter(State.CLOSING)
        self._wait(connection)
        self._count(connection)
        try:
            connection.end()
        except OSError:
            self._close(connection)

    def _wait(self, connection: Connection) -> None:
        """Let the event loop wait for the connection, as the youngest of all."""
        events = selectors.EVENT_WRITE if connection.state is State.SENDING else selectors.EVENT_READ
        if connection in self._waiting:
            del self._waiting[connection]
            self._selector.modify(connection.socket, events, connection)
        else:
            self._selector.register(connection.socket, events, connection)
        self._waiting[connection] = None

    def _count(self, connection: Connection) -> None:
        nbytes = connection.nbytes
        self._bytes += nbytes - self._connections[connection]
        self._connections[connection] = nbytes

    def _limit_bytes(self, newest: Connection) -> None:
        """While too many bytes are in memory, refuse the oldest of the large requests and answers that wait.

        Args:
            newest: the connection whose bytes have just become more; it stays.
        """
        share = self._most_bytes / self._most_connections
        while self._bytes > self._most_bytes:
            large = (other for other in self._waiting if self._connections[other] > share and other is not newest)
            if (oldest := next(large, None)) is None:
                return
            self._dropped += 1
            if oldest.state is State.READING:
                self._part(oldest, BUSY_ANSWER)
            else:
                self._close(oldest)

    def _drop_oldest(self) -> bool:
        """Close the connection that has waited longest. Returns False if no connection waits."""
        oldest = next(iter(self._waiting), None)
        if oldest is None:
            return False
        self._dropped += 1
        self._close(oldest)
        return True

    def _close(self, connection: Connection) -> None:
        """Close a connection that no thread works on."""
        self._selector.unregister(connection.socket)
        del self._waiting[connection]
        self._bytes -= self._connections.pop(connection)
        connection.close()

    def _sweep(self) -> None:
        """Tell gunicorn's master that this process lives. End what has waited too long, and report it."""
        self.notify()
        now = time.monotonic()
        for connection in [connection for connection in self._waiting if connection.expires_at < now]:
            if connection.state is State.READING:
                self._late += 1
                self._part(connection, TIMEOUT_ANSWER)
            else:
                self._late += connection.state is State.SENDING
                self._close(connection)
        if self._late:
            self.log.warning("%d requests did not arrive, or answers were not taken, in time", self._late)
        if self._dropped:
            self.log.warning("%d connections were closed to make room for others", self._dropped)
        self._late = self._dropped = 0


def _raise_file_limit(connections: int) -> int:
    """Let the process open files for so many connections. Returns how many it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(wanted - OTHER_FILES, wanted // 2)
