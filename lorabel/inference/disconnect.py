"""Has the other end of a connection been closed while it waits for our answer?"""

import socket


def is_disconnected(client: socket.socket | None) -> bool:
    """Whether there is something to read from `client`, and it is the end. False if there is no socket to look at.

    Gunicorn gives it as `gunicorn.socket` in the WSGI environment.
    """
    if client is None:
        return False
    try:
        return client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
