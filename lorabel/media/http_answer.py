"""The answer to a GET request, read from a network stream by llhttp (Node's parser, as httptools binds it).

h11, which httpcore uses, takes three times as much CPU time, all of it under Python's lock.
"""

from collections import deque
from collections.abc import Iterator

import httpcore
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

# Bytes of an answer before its body, and between the parts of a body.
LONGEST_HEAD = 100 * 1024
READ_BYTES = 256 * 1024
HEAD_BYTES = 64 * 1024
FIRST_FINAL = 200
WITHOUT_BODY = (204, 304)


class Answer:
    """Reads the head at once, and the body as `iter_stream` is iterated. Not thread-safe.

    Args:
        stream: to which the request was written.
        timeout_s: of each reading.

    Attributes:
        status: a number from 200.
        headers: names in lower case, and values.

    Raises:
        httpcore.RemoteProtocolError: this is no answer of HTTP/1, or it ends too early; also from `iter_stream`.
        httpcore.NetworkError: as the stream raises it, and httpcore.TimeoutException; also from `iter_stream`.
    """

    def __init__(self, stream: httpcore.NetworkStream, timeout_s: float) -> None:
        self._stream, self._timeout_s = stream, timeout_s
        self._parser = _parser(self)
        self._parts: deque[bytes] = deque()
        self._unparsed_bytes = 0
        self._has_head = self._is_complete = self._has_more = self._is_kept_alive = False
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        while not self._has_head:
            self._read()
        codings = [value.lower() for value in self._values(b"transfer-encoding")]
        if codings not in ([], [b"chunked"]):
            raise httpcore.RemoteProtocolError("a coding of the body is not known")
        has_length = bool(codings or self._values(b"content-length")) or self.status in WITHOUT_BODY
        self._is_until_end = not has_length

    @property
    def is_lasting(self) -> bool:
        """Whether the stream can be used for the next request: the body was read, and nothing came after it."""
        return self._is_kept_alive and self._is_complete and not self._parts and not self._has_more

    def header(self, name: bytes) -> bytes | None:
        """The value of a header, by its name in lower case; the first of several."""
        return next(iter(self._values(name)), None)

    def iter_stream(self) -> Iterator[bytes]:
        """The parts of the body as they arrive."""
        while True:
            while self._parts:
                yield self._parts.popleft()
            if self._is_complete:
                return
            self._read()

    def _values(self, name: bytes) -> list[bytes]:
        return [value for other, value in self.headers if other == name]

    def _read(self) -> None:
        """Give the parser what comes next."""
        data = self._stream.read(READ_BYTES if self._has_head else HEAD_BYTES, self._timeout_s)
        if not data:
            if not self._has_head or not self._is_until_end:
                raise httpcore.RemoteProtocolError("the answer ends too early")
            self._is_complete = True
            return
        self._unparsed_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            raise httpcore.RemoteProtocolError("the protocol is another one, which nobody asked for") from None
        except HttpParserError as error:
            if not self._is_complete:
                raise httpcore.RemoteProtocolError(str(error)) from None
            self._has_more = True
        if not self._is_complete and self._unparsed_bytes > LONGEST_HEAD:
            raise httpcore.RemoteProtocolError(f"more than {LONGEST_HEAD} bytes before the body or a part of it")

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._has_more = self._is_complete

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:  # else a trailer
            self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self._unparsed_bytes = 0
        if self._has_head:
            return
        self.status = self._parser.get_status_code()
        self._has_head = self.status >= FIRST_FINAL
        if self._has_head:
            self._is_kept_alive = self._parser.should_keep_alive()
        else:  # 100 and 103 come before the answer
            self.headers.clear()

    def on_body(self, data: bytes) -> None:
        self._unparsed_bytes = 0
        if not self._is_complete:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        self._is_complete = self._has_head


def _parser(answer: Answer) -> HttpResponseParser:
    """A parser that takes what other clients take, too: bare line feeds, spaces after the size of a chunk, and a
    length beside chunks, which count (RFC 9112, 2.2 and 6.3)."""
    parser = HttpResponseParser(answer)
    parser.set_dangerous_leniencies(
        lenient_chunked_length=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
    )
    return parser
