"""The answer to a GET request, read from a network stream (RFC 9112).

h11, which httpcore uses, takes three times as much CPU time, all of it under Python's lock. Only GET is sent here,
so there is no state of a request to be kept, and no upgrade.
"""

import re
from collections.abc import Iterator

import httpcore

# Bytes of an answer before its body, and of a line in a body of chunks.
LONGEST_HEAD, LONGEST_LINE = 100 * 1024, 8 * 1024
READ_BYTES = 256 * 1024
# Bare line feeds end lines, too, as in many clients.
HEAD_END = re.compile(rb"\n\r?\n")
STATUS_LINE = re.compile(rb"HTTP/([0-9]\.[0-9]) ([1-9][0-9]{2})(?: .*)?")
NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?")
LENGTH = re.compile(rb"[0-9]{1,18}")
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
        self._buffer = bytearray()
        self._is_complete = False
        self.status = 0
        while self.status < FIRST_FINAL:  # 100 and 103 come before the answer
            version, self.status, self.headers = self._head()
            if self.status == 101:
                raise httpcore.RemoteProtocolError("the protocol is another one, which nobody asked for")
        self._is_chunked, self._length = _framing(self.status, self.headers)
        closing = b"close" in b",".join(self._values(b"connection")).lower().replace(b" ", b"").split(b",")
        has_end = self._is_chunked or self._length is not None
        self._is_lasting = version >= b"1.1" and has_end and not closing

    @property
    def is_lasting(self) -> bool:
        """Whether the stream can be used for the next request: the body was read, and nothing came after it."""
        return self._is_lasting and self._is_complete and not self._buffer

    def header(self, name: bytes) -> bytes | None:
        """The value of a header, by its name in lower case; the first of several."""
        return next(iter(self._values(name)), None)

    def iter_stream(self) -> Iterator[bytes]:
        """The parts of the body as they arrive."""
        if self._is_chunked:
            yield from self._chunks()
        elif self._length is not None:
            yield from self._exactly(self._length)
        else:
            yield self._cut(len(self._buffer))
            while data := self._stream.read(READ_BYTES, self._timeout_s):
                yield data
        self._is_complete = True

    def _values(self, name: bytes) -> list[bytes]:
        return [value for other, value in self.headers if other == name]

    def _head(self) -> tuple[bytes, int, list[tuple[bytes, bytes]]]:
        """HTTP's version, the status and the headers of an answer, of which there may be several."""
        searched = 0
        while (end := HEAD_END.search(self._buffer, max(0, searched - 2))) is None:
            searched = len(self._buffer)
            if searched > LONGEST_HEAD:
                raise httpcore.RemoteProtocolError(f"more than {LONGEST_HEAD} bytes before the body")
            self._receive()
        first, *lines = self._cut(end.end()).rstrip(b"\r\n").split(b"\n")
        status_line = STATUS_LINE.fullmatch(first.rstrip(b"\r"))
        if status_line is None:
            raise httpcore.RemoteProtocolError("the first line is none of HTTP")
        return status_line[1], int(status_line[2]), _headers(lines)

    def _chunks(self) -> Iterator[bytes]:
        """The body in chunks (RFC 9112, 7.1). Extensions and trailers are dropped."""
        while size := self._chunk_size():
            yield from self._exactly(size)
            if self._line():
                raise httpcore.RemoteProtocolError("a chunk is longer than was said")
        while self._line():
            """A trailer."""

    def _chunk_size(self) -> int:
        match = CHUNK_SIZE.fullmatch(self._line())
        if match is None:
            raise httpcore.RemoteProtocolError("a chunk has no size")
        return int(match[1], 16)

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\n", 0, LONGEST_LINE)) < 0:
            if len(self._buffer) >= LONGEST_LINE:
                raise httpcore.RemoteProtocolError("a line has no end")
            self._receive()
        return self._cut(end + 1).rstrip(b"\r\n")

    def _exactly(self, length: int) -> Iterator[bytes]:
        while length:
            if not self._buffer:
                part = self._read(min(length, READ_BYTES))
            else:
                part = self._cut(min(length, len(self._buffer)))
            length -= len(part)
            yield part

    def _receive(self) -> None:
        self._buffer += self._read(READ_BYTES)

    def _read(self, most: int) -> bytes:
        data = self._stream.read(most, self._timeout_s)
        if not data:
            raise httpcore.RemoteProtocolError("the answer ends too early")
        return data

    def _cut(self, length: int) -> bytes:
        """Take so many bytes from the begin of the buffer."""
        with memoryview(self._buffer) as view:
            data = bytes(view[:length])
        del self._buffer[:length]
        return data


def _headers(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    headers: list[tuple[bytes, bytes]] = []
    for line in lines:
        if line[:1] in (b" ", b"\t") and headers:
            # A line may go on with the header before (5.2).
            name, value = headers.pop()
            headers.append((name, value + b" " + line.strip()))
            continue
        name, colon, value = line.partition(b":")
        if not colon or NAME.fullmatch(name) is None:
            raise httpcore.RemoteProtocolError("a header has no name")
        headers.append((name.lower(), value.strip()))
    return headers


def _framing(status: int, headers: list[tuple[bytes, bytes]]) -> tuple[bool, int | None]:
    """Whether the body is in chunks, and otherwise its length in bytes; None: until the stream ends (6.3)."""
    if status in WITHOUT_BODY:
        return False, 0
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings:
        if codings != [b"chunked"]:
            raise httpcore.RemoteProtocolError("a coding of the body is not known")
        return True, None
    values = [value for name, value in headers if name == b"content-length"]
    lengths = {length.strip() for value in values for length in value.split(b",")}
    if not lengths:
        return False, None
    if len(lengths) > 1 or LENGTH.fullmatch(next(iter(lengths))) is None:
        raise httpcore.RemoteProtocolError("the length of the body is no number")
    return False, int(next(iter(lengths)))
