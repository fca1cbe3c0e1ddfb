"""Connections that hold a server up: they send nothing, or a part of a request, or a request very slowly."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

HEAD = b"POST /webhook HTTP/1.1\r\nHost: backend\r\nContent-Type: application/json\r\n"
HALF_BODY = HEAD + b"Content-Length: 1000\r\n\r\n" + b'{"action": '
HALF_CHUNK = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n" + b'{"action": '


@dataclass(frozen=True)
class Kind:
    """What such a connection sends: `first` at once, then `slowly`, byte by byte."""

    first: bytes
    slowly: bytes = b""


KINDS = {
    "silence": Kind(b""),
    "half a header": Kind(HEAD + b"Content-Le"),
    "half a body": Kind(HALF_BODY),
    "half a chunk": Kind(HALF_CHUNK),
    "a header byte by byte": Kind(b"", HEAD * 100),
    "a body byte by byte": Kind(HALF_BODY, b" " * 900),
}


@contextmanager
def half_open(port: int, kind: Kind, count: int, byte_every_s: float = 0.1) -> Iterator[list[socket.socket]]:
    """Open so many connections to 127.0.0.1, and close them after the block."""
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(count)
        ]
        for client in clients:
            client.sendall(kind.first)
        stop = threading.Event()
        sender = threading.Thread(target=_send, args=(clients, kind.slowly, byte_every_s, stop))
        sender.start()
        try:
            yield clients
        finally:
            stop.set()
            sender.join()


def _send(clients: list[socket.socket], slowly: bytes, byte_every_s: float, stop: threading.Event) -> None:
    for number in range(len(slowly)):
        if stop.wait(byte_every_s):
            return
        for client in clients:
            # The server may have closed it.
            with suppress(OSError):
                client.send(slowly[number : number + 1])
