"""Finds where a request ends in the bytes of a connection. Nothing here waits, or knows of sockets.

A request is returned with its whole body, so that the thread that answers it never waits for the client.
"""

import io
from collections.abc import Callable
from typing import Any

from gunicorn.http.errors import InvalidChunkSize, LimitRequestHeaders

from lorabel.http_server.heads import Heads

# gunicorn's own limits for a line and for the number of fields allow less in practice.
LONGEST_HEAD = 64 * 1024
LONGEST_CHUNK_LINE = 8 * 1024
# Chunks and trailers of one body. Each costs about as much time as a kilobyte.
MOST_CHUNKS = 100_000
HEAD_END = b"\r\n\r\n"
LINE_END = b"\r\n"


class RequestReader:
    """Reads the requests of one connection, one after the other. Not thread-safe.

    Args:
        heads: parse the heads of the requests.
        client: address of the client, as `socket.accept` gives it.
        longest_body: in bytes. A longer body is not read to its end, and the connection is to be closed after the
            answer; the app refuses it.
        on_expected: called when the client waits for "100 Continue" before it sends the body.
    """

    def __init__(self, heads: Heads, client: Any, longest_body: int, on_expected: Callable[[], None]) -> None:
        self._heads = heads
        self._client = client
        self._longest_body = longest_body
        self._on_expected = on_expected
        self._buffer = bytearray()
        self._begin()

    def _begin(self) -> None:
        self._searched = 0
        self._request: Any = None
        self._length: int | None = None
        self._chunks: _Chunks | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return len(self._buffer) + (len(self._chunks.body) if self._chunks else 0)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def clear(self) -> None:
        """Forget what has arrived."""
        self._buffer.clear()
        self._begin()

    def next_request(self) -> Any | None:
        """gunicorn's request with its whole body, or None while it is not complete.

        Raises:
            Exception: what gunicorn's parser raises for a request that is no HTTP. The connection is to be closed.
        """
        if self._request is None and not self._read_head():
            return None
        body = self._read_body()
        if body is None:
            return None
        request = self._request
        request.body = io.BytesIO(body)
        if self._chunks is not None:
            # For the app it is a body of known length: werkzeug cuts one of unknown length silently at its limit.
            fields = [field for field in request.headers if field[0] != "TRANSFER-ENCODING"]
            request.headers = [*fields, ("CONTENT-LENGTH", str(len(body)))]
        self._begin()
        return request

    def _read_head(self) -> bool:
        # An empty line may come before a request (RFC 9112, 2.2).
        begin = 2 if self._buffer.startswith(LINE_END) else 0
        end = self._buffer.find(HEAD_END, max(begin, self._searched - len(HEAD_END)))
        if (len(self._buffer) if end < 0 else end) > LONGEST_HEAD:
            raise LimitRequestHeaders(f"more than {LONGEST_HEAD} bytes")
        if end < 0:
            self._searched = len(self._buffer)
            return False
        head = _cut(self._buffer, end + len(HEAD_END))
        self._request = self._heads.parse(head, self._client)
        fields = dict(self._request.headers)
        if "TRANSFER-ENCODING" in fields:
            self._chunks = _Chunks(self._longest_body)
        else:
            self._length = int(fields.get("CONTENT-LENGTH", 0))
        if "EXPECT" in fields:
            # Otherwise gunicorn would send "100 Continue" when the body has come.
            self._request._expected_100_continue = False
            if self._length is None or len(self._buffer) < self._length <= self._longest_body:
                self._on_expected()
        return True

    def _read_body(self) -> bytes | None:
        if self._chunks is not None:
            if not self._chunks.read(self._buffer):
                return None
            if self._chunks.is_too_long:
                self._request.force_close()
            return bytes(self._chunks.body)
        assert self._length is not None
        if self._length > self._longest_body:
            self._request.force_close()
            return b""
        return _cut(self._buffer, self._length) if len(self._buffer) >= self._length else None


class _Chunks:
    """Decodes a body in chunks (RFC 9112, 7.1). Extensions and trailers are dropped."""

    def __init__(self, longest_body: int) -> None:
        self._longest_body = longest_body
        self._left = 0
        self._is_after_data = False
        self._is_in_trailers = False
        self._lines = 0
        self.body = bytearray()

    @property
    def is_too_long(self) -> bool:
        return len(self.body) > self._longest_body

    def read(self, buffer: bytearray) -> bool:
        """Take from the buffer what can be decoded. Returns whether the body is complete, or too long.

        Raises:
            InvalidChunkSize: this is no body in chunks.
        """
        while not self.is_too_long:
            if self._left:
                data = _cut(buffer, min(self._left, len(buffer)))
                self.body += data
                self._left -= len(data)
                if self._left:
                    return False
                self._is_after_data = True
            line = self._line(buffer)
            if line is None:
                return False
            if self._is_in_trailers:
                if not line:
                    return True
            elif self._is_after_data:
                if line:
                    raise InvalidChunkSize(line)
                self._is_after_data = False
            else:
                self._left = self._size(line)
                self._is_in_trailers = self._left == 0
        return True

    def _line(self, buffer: bytearray) -> bytes | None:
        end = buffer.find(LINE_END, 0, LONGEST_CHUNK_LINE)
        if end < 0:
            if len(buffer) >= LONGEST_CHUNK_LINE:
                raise InvalidChunkSize(b"a line without an end")
            return None
        self._lines += 1
        if self._lines > 2 * MOST_CHUNKS:
            raise InvalidChunkSize(b"more than %d chunks" % MOST_CHUNKS)
        return _cut(buffer, end + len(LINE_END))[: -len(LINE_END)]

    @staticmethod
    def _size(line: bytes) -> int:
        digits = line.split(b";", 1)[0].strip(b" \t")
        if not digits or digits.strip(b"0123456789abcdefABCDEF"):
            raise InvalidChunkSize(line)
        return int(digits, 16)


def _cut(buffer: bytearray, length: int) -> bytes:
    """Take so many bytes from the begin of the buffer."""
    with memoryview(buffer) as view:
        data = bytes(view[:length])
    del buffer[:length]
    return data
