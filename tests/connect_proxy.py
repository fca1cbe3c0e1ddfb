"""A small HTTP proxy that only opens tunnels (CONNECT), each of them to one port of this machine.

It is a process of its own: `python -m tests.connect_proxy LEADS_TO STATUS [PEM]`.
"""

import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

START_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class ConnectProxy:
    """A running proxy. Its first line of output is its port; a line with target and login follows per request."""

    output: Path
    scheme: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self._lines()[0]}"

    @property
    def targets(self) -> list[str]:
        """`host:port` of each request until now."""
        return [json.loads(line)["target"] for line in self._lines()[1:]]

    @property
    def logins(self) -> list[str | None]:
        """The Proxy-Authorization header of each request until now."""
        return [json.loads(line)["login"] for line in self._lines()[1:]]

    def _lines(self) -> list[str]:
        return self.output.read_text().splitlines()


@contextmanager
def proxy_to(port: int, status: int = 200, pem: Path | None = None) -> Iterator[ConnectProxy]:
    """Run a proxy until the block ends.

    Args:
        port: of 127.0.0.1; every tunnel leads to it.
        status: of the proxy's answers.
        pem: key and certificate of a proxy that is reached over TLS.
    """
    with TemporaryDirectory() as folder:
        proxy = ConnectProxy(Path(folder) / "output", "http" if pem is None else "https")
        command = [sys.executable, "-m", "tests.connect_proxy", str(port), str(status), str(pem or "")]
        with proxy.output.open("w") as output, subprocess.Popen(command, stdout=output) as process:
            try:
                _wait_for_line(proxy.output, process)
                yield proxy
            finally:
                process.kill()


def _wait_for_line(output: Path, process: subprocess.Popen[bytes]) -> None:
    ends_at = time.monotonic() + START_TIMEOUT_S
    while not output.read_text().endswith("\n"):
        assert process.poll() is None and time.monotonic() < ends_at, "the proxy has not started"
        time.sleep(0.01)


class _Handler(BaseHTTPRequestHandler):
    leads_to: int
    status: int

    def do_CONNECT(self) -> None:
        login = self.headers["Proxy-Authorization"]
        _write(json.dumps({"target": self.path, "login": login}))
        if self.status != 200:
            self.send_error(self.status)
            return
        with socket.create_connection(("127.0.0.1", self.leads_to)) as target:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_copy, args=(target, self.connection), daemon=True)
            back.start()
            _copy(self.connection, target)
            back.join()
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Log nothing."""


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy until the source ends."""
    try:
        while part := source.recv(65536):
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return  # one side has closed


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _main(leads_to: str, status: str, pem: str) -> None:
    _Handler.leads_to, _Handler.status = int(leads_to), int(status)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    if pem:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    _write(str(server.server_port))
    server.serve_forever()


if __name__ == "__main__":
    _main(*sys.argv[1:])
