"""Keeps what a family has computed and may need again: decoded files, and features of contents and texts."""

import threading
from collections.abc import Hashable, Mapping
from typing import Any

from cachetools import LRUCache

DECODED, FEATURES, TEXTS, EMBEDDINGS = "pixels", "features", "texts", "embeddings"
"""Kinds of values. DECODED: decoded files. FEATURES: features of contents, computed by a tower. TEXTS: what many
questions share, that is features of label texts and the weights of heads. EMBEDDINGS: what masks in a picture are
decoded from, or texts about it are written from, megabytes each."""


class FeatureCache:
    """A cache of tensors, or of other values with `nbytes`, by kind and key.

    Each kind has a capacity of its own. When it is full, the least recently used values are dropped.
    Thread-safe.

    Args:
        max_bytes: capacity of each kind. Values of a kind that is missing here are not kept.
    """

    def __init__(self, max_bytes: Mapping[str, int]) -> None:
        self._values: dict[str, LRUCache[Hashable, Any]] = {
            kind: LRUCache(capacity, getsizeof=lambda value: value.nbytes) for kind, capacity in max_bytes.items()
        }
        self._hits = dict.fromkeys(max_bytes, 0)
        self._misses = dict.fromkeys(max_bytes, 0)
        self._lock = threading.Lock()

    def get(self, kind: str, key: Hashable) -> Any | None:
        """Return the value, or None if it is not in the cache. Counts a hit or a miss."""
        with self._lock:
            if kind not in self._values:
                return None
            value = self._values[kind].get(key)
            if value is None:
                self._misses[kind] += 1
            else:
                self._hits[kind] += 1
            return value

    def put(self, kind: str, key: Hashable, value: Any) -> None:
        """Store a value. It is not kept if it is larger than the whole capacity of its kind."""
        with self._lock:
            values = self._values.get(kind)
            if values is not None and value.nbytes <= values.maxsize:
                values[key] = value

    def figures(self) -> dict[str, dict[str, int]]:
        """Return for each kind the `bytes` that are stored, and the number of `hits` and `misses` so far."""
        with self._lock:
            return {
                kind: {"bytes": int(values.currsize), "hits": self._hits[kind], "misses": self._misses[kind]}
                for kind, values in self._values.items()
            }
