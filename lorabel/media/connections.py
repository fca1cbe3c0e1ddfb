"""HTTP connections to the hosts of media, kept open between downloads.

httpcore's own pool looks at each of its connections before and after each request, which with 32 of them takes
more time than the request. Here the connections of an origin are a stack, and the last that was used is used
again.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import httpcore

from lorabel.network import tls_context

# Idle connections of all origins together. The one that has been idle longest is closed for a new one.
MOST_IDLE = 32
Origin = tuple[bytes, bytes, int]
"""Scheme, host and port."""
# How a kept connection fails that the server closes at the moment when it is used.
STALE = (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError)


class Connections:
    """Thread-safe. The number of connections is not limited: callers limit their downloads.

    Args:
        backend: opens connections, and refuses those that may not be opened.
    """

    def __init__(self, backend: httpcore.NetworkBackend) -> None:
        self._backend, self._tls = backend, tls_context()
        # The connection that was used last is the last.
        self._idle: dict[httpcore.HTTPConnection, Origin] = {}
        self._lock = threading.Lock()

    @contextmanager
    def get(
        self, url: str, headers: Mapping[bytes | str, bytes | str], extensions: dict[str, Any]
    ) -> Iterator[httpcore.Response]:
        """A context with the answer to a GET request. The connection is kept if the answer was read to its end.

        Raises:
            httpcore.UnsupportedProtocol: the URL is not of http or https.
        """
        request = httpcore.Request("GET", url, headers=headers, extensions=extensions)
        if request.url.scheme not in (b"http", b"https"):
            raise httpcore.UnsupportedProtocol("the address is not of http or https")
        connection, response = self._begin(request)
        try:
            try:
                yield response
            finally:
                response.close()
        except BaseException:
            connection.close()
            raise
        self._put_back(connection, request.url.origin)

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for connection in idle:
            connection.close()

    def _begin(self, request: httpcore.Request) -> tuple[httpcore.HTTPConnection, httpcore.Response]:
        """Send the request, and read the beginning of the answer. On a kept connection a failure is no answer."""
        kept = self._take(request.url.origin)
        if kept is not None:
            with suppress(*STALE):
                return kept, _ask(kept, request)
        new = httpcore.HTTPConnection(request.url.origin, self._tls, network_backend=self._backend)
        return new, _ask(new, request)

    def _take(self, origin: httpcore.Origin) -> httpcore.HTTPConnection | None:
        """The idle connection that was used last and that the server has not closed; None if there is none."""
        while True:
            with self._lock:
                of_origin = (each for each in reversed(self._idle) if self._idle[each] == _key(origin))
                connection = next(of_origin, None)
                if connection is not None:
                    del self._idle[connection]
            if connection is None or not connection.has_expired():
                return connection
            connection.close()

    def _put_back(self, connection: httpcore.HTTPConnection, origin: httpcore.Origin) -> None:
        if not connection.is_idle():
            connection.close()
            return
        oldest = None
        with self._lock:
            if len(self._idle) >= MOST_IDLE:
                oldest = next(iter(self._idle))
                del self._idle[oldest]
            self._idle[connection] = _key(origin)
        if oldest is not None:
            oldest.close()


def _ask(connection: httpcore.HTTPConnection, request: httpcore.Request) -> httpcore.Response:
    try:
        return connection.handle_request(request)
    except BaseException:
        connection.close()
        raise


def _key(origin: httpcore.Origin) -> Origin:
    return origin.scheme, origin.host, origin.port
