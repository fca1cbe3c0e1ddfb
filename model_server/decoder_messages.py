"""Messages between the model server and its decoders, over a stream socket: a head, and a body of bytes.

A decoder says by one byte that it has read a request and begins, and then sends the answer.
A request's head is pickled. An answer's head is JSON, since what a stranger's file made of a decoder must not run
here.
"""

import socket
import struct

import numpy as np

BEGUN = b"b"
# Bytes of the head, and of the body.
LENGTHS = struct.Struct("=QQ")


def send(stream: socket.socket, head: bytes, body: bytes | memoryview = b"") -> None:
    """Send a message.

    Raises:
        OSError: the other process has ended.
    """
    length = memoryview(body).nbytes
    stream.sendall(LENGTHS.pack(len(head), length) + head)
    if length:
        stream.sendall(body)


def receive(stream: socket.socket) -> tuple[bytes, memoryview]:
    """Wait for a message; returns its head and its body.

    Raises:
        EOFError, OSError: the other process has ended.
    """
    head_length, length = LENGTHS.unpack(_received(stream, LENGTHS.size))
    return _received(stream, head_length).tobytes(), _received(stream, length)


def wait_for_begin(stream: socket.socket) -> None:
    """Wait until the decoder has read the request.

    Raises:
        EOFError, OSError: it has ended before, whatever is in the request.
    """
    _received(stream, len(BEGUN))


def _received(stream: socket.socket, length: int) -> memoryview:
    """The next bytes of a stream. The kernel collects them, without the GIL."""
    data = np.empty(length, np.uint8).data
    position = 0
    while position < length:
        count = stream.recv_into(data[position:], flags=socket.MSG_WAITALL)
        if not count:
            raise EOFError("the other process has ended")
        position += count
    return data
