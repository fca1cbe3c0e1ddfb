"""Notices that a client has closed its connection while it waited for our answer."""

import select
import socket
import ssl


def is_disconnected(client: socket.socket | None) -> bool:
    """Whether the client has closed the connection. Takes nothing that the client sent from the socket.

    Args:
        client: the connection's socket, `gunicorn.socket` in the WSGI environment of gunicorn. None if the server
            does not tell, which counts as connected.
    """
    if client is None:
        return False
    if isinstance(client, ssl.SSLSocket):
        # The bytes that can be read may be those by which TLS ends.
        poll = select.poll()
        poll.register(client, select.POLLRDHUP)
        return bool(poll.poll(0))
    try:
        return client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
