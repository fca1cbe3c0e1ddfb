"""HTTP connections to the hosts of media, kept open between downloads.

The connections of an origin are a stack: the last that was used is used again. httpcore's own pool looks at each
of its connections before and after each request, which with 32 of them takes more time than the request. Its
network streams are used here, and its exceptions.
"""

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import MappingProxyType
from urllib.parse import SplitResult, urlsplit

import httpcore

from lorabel.media.http_answer import Answer
from lorabel.network import tls_context

# Idle connections of all origins together. The one that has been idle longest is closed for a new one.
MOST_IDLE = 32
CONNECT_S = 5.0
PORTS: Mapping[str, int] = MappingProxyType({"http": 80, "https": 443})
Origin = tuple[str, str, int]
"""Scheme, host and port."""
# How a kept connection fails that the server closes at the moment when it is used.
STALE = (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError)
# Nothing in a line of a request may end the line.
TARGET, VALUE = re.compile(r"[!-~]+"), re.compile(r"[\t -~\x80-\xff]*")


class Connections:
    """Thread-safe. The number of connections is not limited: callers limit their downloads.

    Args:
        backend: opens connections, and refuses those that may not be opened.
    """

    def __init__(self, backend: httpcore.NetworkBackend) -> None:
        self._backend, self._tls = backend, tls_context()
        self._tls.set_alpn_protocols(["http/1.1"])
        # The connection that was used last is the last.
        self._idle: dict[httpcore.NetworkStream, Origin] = {}
        self._lock = threading.Lock()

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str], timeout_s: float) -> Iterator[Answer]:
        """A context with the answer to a GET request. The connection is kept if the answer was read to its end.

        Args:
            url: in ASCII.
            timeout_s: to write the request, and for each reading of the answer.

        Raises:
            httpcore.UnsupportedProtocol: the URL is not of http or https.
            httpcore.LocalProtocolError: the URL or a header has characters that it cannot have.
            httpcore.RemoteProtocolError: what came is no answer, see `Answer`.
            httpcore.NetworkError: also httpcore.TimeoutException.
            ValueError: the URL has no number as its port.
        """
        parts = urlsplit(url)
        if parts.scheme not in PORTS:
            raise httpcore.UnsupportedProtocol("the address is not of http or https")
        origin = parts.scheme, parts.hostname or "", parts.port or PORTS[parts.scheme]
        stream, answer = self._begin(origin, _request(parts, headers), timeout_s)
        try:
            yield answer
        except BaseException:
            stream.close()
            raise
        if answer.is_lasting:
            self._put_back(stream, origin)
        else:
            stream.close()

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for stream in idle:
            stream.close()

    def _begin(self, origin: Origin, request: bytes, timeout_s: float) -> tuple[httpcore.NetworkStream, Answer]:
        """Send the request, and read the beginning of the answer. A kept connection that fails is no failure."""
        kept = self._take(origin)
        if kept is not None:
            with suppress(*STALE):
                return kept, _ask(kept, request, timeout_s)
        new = self._open(origin, min(timeout_s, CONNECT_S))
        return new, _ask(new, request, timeout_s)

    def _open(self, origin: Origin, timeout_s: float) -> httpcore.NetworkStream:
        scheme, host, port = origin
        stream = self._backend.connect_tcp(host, port, timeout_s)
        if scheme == "http":
            return stream
        try:
            return stream.start_tls(self._tls, host, timeout_s)
        except BaseException:
            stream.close()
            raise

    def _take(self, origin: Origin) -> httpcore.NetworkStream | None:
        """The idle connection that was used last and that the server has not closed; None if there is none."""
        while True:
            with self._lock:
                of_origin = (stream for stream in reversed(self._idle) if self._idle[stream] == origin)
                stream = next(of_origin, None)
                if stream is None:
                    return None
                del self._idle[stream]
            # Nothing can be read but the end.
            if not stream.get_extra_info("is_readable"):
                return stream
            stream.close()

    def _put_back(self, stream: httpcore.NetworkStream, origin: Origin) -> None:
        oldest = None
        with self._lock:
            if len(self._idle) >= MOST_IDLE:
                oldest = next(iter(self._idle))
                del self._idle[oldest]
            self._idle[stream] = origin
        if oldest is not None:
            oldest.close()


def _ask(stream: httpcore.NetworkStream, request: bytes, timeout_s: float) -> Answer:
    try:
        stream.write(request, timeout_s)
        return Answer(stream, timeout_s)
    except BaseException:
        stream.close()
        raise


def _request(parts: SplitResult, headers: Mapping[str, str]) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if TARGET.fullmatch(target) is None or any(VALUE.fullmatch(value) is None for value in headers.values()):
        raise httpcore.LocalProtocolError("the address or a header has characters that it cannot have")
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
