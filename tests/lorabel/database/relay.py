"""Passes connections on to a server, and counts round trips: how often a client has waited for an answer."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Relay:
    """Listens at `port`. `round_trips` counts those of all connections."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.round_trips = 0

    @contextmanager
    def running(self) -> Iterator["Relay"]:
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield self
        finally:
            self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                is_asked = threading.Event()
                threading.Thread(target=self._pass_on, args=(client, server, is_asked, True), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(server, client, is_asked, False), daemon=True).start()

    def _pass_on(
        self, source: socket.socket, target: socket.socket, is_asked: threading.Event, is_client: bool
    ) -> None:
        with suppress(OSError), source, target:
            while data := source.recv(65536):
                if not is_client:
                    is_asked.clear()
                elif not is_asked.is_set():
                    is_asked.set()
                    self.round_trips += 1
                target.sendall(data)
