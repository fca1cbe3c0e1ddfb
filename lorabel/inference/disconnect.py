"""Notices that a client has closed its connection while it waited for our answer."""

import socket


def is_disconnected(client: socket.socket | None) -> bool:
    """Whether the client has closed the connection. Takes nothing that the client sent from the socket.

    Args:
        client: the connection's socket, `gunicorn.socket` in the WSGI environment of gunicorn. None if the server
            does not tell, which counts as connected.
    """
    if client is None:
        return False
    try:
        return client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
