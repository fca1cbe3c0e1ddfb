"""An HTTP server that sends pictures after a delay that their address names."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.serving import serving
from tests.workers.pictures import pictures


class _Handler(BaseHTTPRequestHandler):
    """`/1500/7.png` is the eighth drawn picture, sent after 1,500 ms."""

    def do_GET(self) -> None:
        wait_ms, number = self.path.removesuffix(".png").strip("/").split("/")
        time.sleep(int(wait_ms) / 1000)
        file = io.BytesIO()
        pictures(int(number) + 1)[int(number)].draw(96).save(file, "PNG")
        self.send_response(200)
        self.send_header("Content-Length", str(len(file.getvalue())))
        self.end_headers()
        self.wfile.write(file.getvalue())

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Ignore clients that were killed while they waited."""


@contextmanager
def slow_pictures() -> Iterator[str]:
    """Yields the server's address."""
    server = _Server(("127.0.0.1", 0), _Handler)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"
