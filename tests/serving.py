"""Serves in a thread of the test's process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseServer

# A server that is told to end looks at this once in so many seconds; 0.5 by default, which many tests waited for.
POLL_S = 0.01


@contextmanager
def serving(server: BaseServer) -> Iterator[None]:
    """Answer requests until the end of the block, and close the server then."""
    thread = threading.Thread(target=server.serve_forever, args=(POLL_S,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
