"""Parses heads of requests with gunicorn's parser, and remembers those that come again.

A client sends the same head with each request, but for the length of the body. To parse it takes 40 us, to find it
again 2.
"""

from typing import Any

from cachetools import LRUCache
from gunicorn import http

# Heads that are remembered, and the longest in bytes.
MOST_HEADS = 512
LONGEST_REMEMBERED = 2048


class Heads:
    """Not thread-safe.

    Args:
        config: gunicorn's. It must stay as it is.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self._requests: LRUCache[tuple[Any, bytes], Any] = LRUCache(MOST_HEADS)

    def parse(self, head: bytes, client: Any) -> Any:
        """gunicorn's request, without its body. The caller may change its attributes, and not what they hold.

        Args:
            head: all of it, with the empty line at its end.
            client: address of the client, as `socket.accept` gives it. Its host decides which headers are
                believed.

        Raises:
            Exception: what gunicorn's parser raises for a head that is no HTTP.
        """
        key = (client[0] if isinstance(client, tuple) else client, head)
        request = self._requests.get(key)
        if request is None:
            request = next(http.get_parser(self._config, iter([head]), client))
            if len(head) > LONGEST_REMEMBERED:
                return request
            self._requests[key] = request
        same = object.__new__(type(request))
        same.__dict__.update(request.__dict__)
        same.peer_addr = same.remote_addr = client
        return same
