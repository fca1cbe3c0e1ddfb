"""A small HTTP proxy that only opens tunnels (CONNECT), each of them to one port of this machine."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class ConnectProxy:
    """Notes what it is asked for.

    Attributes:
        leads_to: the port of 127.0.0.1 to which every tunnel leads.
        status: of its answers.
        targets: `host:port` of each request.
        logins: the Proxy-Authorization header of each request.
    """

    leads_to: int
    status: int = 200
    url: str = ""
    targets: list[str] = field(default_factory=list)
    logins: list[str | None] = field(default_factory=list)


@contextmanager
def proxy_to(port: int, status: int = 200) -> Iterator[ConnectProxy]:
    """Run a proxy until the block ends."""
    proxy = ConnectProxy(port, status)

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:  # noqa: N802 - the name that BaseHTTPRequestHandler looks for
            proxy.targets.append(self.path)
            proxy.logins.append(self.headers["Proxy-Authorization"])
            if proxy.status != 200:
                self.send_error(proxy.status)
                return
            with socket.create_connection(("127.0.0.1", proxy.leads_to)) as target:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=_copy, args=(target, self.connection), daemon=True)
                back.start()
                _copy(self.connection, target)
                back.join()
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy until the source ends."""
    try:
        while part := source.recv(65536):
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return  # one side has closed
